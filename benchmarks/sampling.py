# SPDX-License-Identifier: Apache-2.0
"""Sampling by our StyleGAN2 against the straightforward formulation with per-sample weights and grouped convolutions."""

import statistics
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._reference_stylegan2 import synthesize
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.assets import asset_path
from hf_ganzip.models import StyleGAN2Generator


def bundled() -> StyleGAN2Generator:
    """The trained 32-pixel generator."""
    return StyleGAN2Generator.from_pretrained(asset_path("stylegan2-fashion-mnist")).eval()


def large() -> StyleGAN2Generator:
    """Half the widths of the official 256-pixel configuration, freshly initialized."""
    return StyleGAN2Generator(resolution=256, channel_base=8192, channel_max=256).eval()


@torch.inference_mode()
def compare(name: str, generator: StyleGAN2Generator, batch: int, dtype: torch.dtype, repeats: int) -> dict:
    """One row: milliseconds of both, and how many times faster ours is."""
    generator.synthesis.to(dtype)
    ws = torch.randn(batch, generator.num_ws, generator.config.w_dim, generator=torch.Generator().manual_seed(0))
    ours, theirs = generator.synthesize(ws, noise_mode="const"), synthesize(generator, ws)
    difference = float((ours - theirs).abs().mean() / theirs.abs().mean())
    if difference > (1e-4 if dtype == torch.float32 else 3e-2):
        raise RuntimeError(f"{name}, {dtype}: the images differ by {difference:.1e} of their mean; nothing was timed.")
    seconds = interleaved(
        {
            "reference": lambda: synthesize(generator, ws),
            "ours": lambda: generator.synthesize(ws, noise_mode="const"),
        },
        repeats,
    )
    medians = {f"{side} ms": 1000 * statistics.median(values) for side, values in seconds.items()}
    row = {"model": name, "batch": batch, "dtype": str(dtype).removeprefix("torch.")} | medians
    return row | ratio(seconds["reference"], seconds["ours"]) | {"difference": difference}


def main() -> None:
    arguments = parser(__doc__, repeats=7).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    models = [("stylegan2-fashion-mnist 32 px", bundled, 8 if arguments.quick else 64)]
    if not arguments.quick:
        models.append(("256 px, widths up to 256", large, 4))
    rows = [
        compare(name, make(), batch, dtype, arguments.repeats)
        for name, make, batch in models
        for dtype in (torch.float32, torch.bfloat16)
    ]
    report(rows, conditions(arguments, "diffusers"), arguments.json)


if __name__ == "__main__":
    main()
