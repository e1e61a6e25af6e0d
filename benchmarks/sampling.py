# SPDX-License-Identifier: Apache-2.0
"""Sampling: StyleGAN2 against per-sample weights and grouped convolutions; StyleGAN3's filtered activation against its
definition.

Sections: `stylegan2` (the bundled generator, and 256 pixels with the official base widths) and `activation` (the
layers of StyleGAN3-T for 256 pixels, four images each, against zero insertion, padding and two-dimensional depthwise
filters).
"""

import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._reference_stylegan2 import synthesize
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.assets import asset_path
from hf_ganzip.models import StyleGAN2Generator, StyleGAN3Generator
from hf_ganzip.models.stylegan3_layers import FilteredActivation


SECTIONS = ("stylegan2", "activation")


def bundled() -> StyleGAN2Generator:
    """The trained 32-pixel generator."""
    return StyleGAN2Generator.from_pretrained(asset_path("stylegan2-fashion-mnist")).eval()


def base() -> StyleGAN2Generator:
    """The official base widths for 256 pixels, freshly initialized."""
    return StyleGAN2Generator.from_preset("ffhq-256-base").eval()


def plain_activation(x, bias, up_filter, down_filter, layer: FilteredActivation, *, gain, slope, clamp):
    """Zero insertion, padding, one two-dimensional filter per direction."""

    def filtered(x, kernel, stride=1):
        if kernel is None:
            return x[:, :, ::stride, ::stride]
        kernel = (kernel if kernel.ndim == 2 else torch.outer(kernel, kernel)).flip(0, 1).to(x.dtype)
        return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), stride=stride, groups=x.shape[1])

    x = x + bias[:, None, None]
    batch, channels, size, _ = x.shape
    spread = x.new_zeros(batch, channels, size * layer.up, size * layer.up)
    spread[:, :, :: layer.up, :: layer.up] = x
    before, after = layer.padding
    x = filtered(F.pad(spread, (before, after, before, after)), up_filter) * layer.up**2
    return filtered(F.leaky_relu(x, slope).mul_(gain).clamp_(-clamp, clamp), down_filter, layer.down)


@torch.inference_mode()
def compare_activation(index: int, model: StyleGAN3Generator, batch: int, repeats: int) -> dict:
    """One row: milliseconds of a layer's activation in both formulations, float32."""
    layer = getattr(model.synthesis, model.synthesis.layer_names[index])
    activation = layer.activation
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(batch, len(layer.bias), activation.size, activation.size, generator=generator)
    arguments = (layer.bias, layer.up_filter, layer.down_filter)
    options = {"gain": 2**0.5, "slope": 0.2, "clamp": 256.0}
    ours = activation(x.clone(), *arguments, **options)
    theirs = plain_activation(x, *arguments, activation, **options)
    difference = float((ours - theirs).abs().max())
    if difference > 1e-4:
        raise RuntimeError(f"layer {index}: the activations differ by {difference:.1e}; nothing was timed.")
    seconds = interleaved(
        {
            "reference": lambda: plain_activation(x, *arguments, activation, **options),
            "ours": lambda: activation(x, *arguments, **options),
        },
        repeats,
    )
    medians = {f"{side} ms": 1000 * statistics.median(values) for side, values in seconds.items()}
    row = {"model": f"stylegan3-t {model.synthesis.layer_names[index]}", "batch": batch, "dtype": "float32"} | medians
    return row | ratio(seconds["reference"], seconds["ours"]) | {"difference": difference}


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
    options = parser(__doc__, repeats=7)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    if "stylegan2" in arguments.only:
        models = [("stylegan2-fashion-mnist 32 px", bundled, 8 if arguments.quick else 64)]
        if not arguments.quick:
            models.append(("256 px, base widths", base, 4))
        rows += [
            compare(name, make(), batch, dtype, arguments.repeats)
            for name, make, batch in models
            for dtype in (torch.float32, torch.bfloat16)
        ]
    if "activation" in arguments.only:
        model = StyleGAN3Generator.from_preset("ffhq-256-t", channel_base=512 if arguments.quick else 16384)
        chosen = (0, 3) if arguments.quick else range(len(model.synthesis.layer_names) - 1)
        rows += [compare_activation(index, model, 1 if arguments.quick else 4, arguments.repeats) for index in chosen]
    report(rows, conditions(arguments, "diffusers"), arguments.json)


if __name__ == "__main__":
    main()
