# SPDX-License-Identifier: Apache-2.0
"""Pruning and Singular Value Scaling, as ratios within one run.

StyleGAN2 for 256 pixels with base widths, and a UNet of the size of the CIFAR-10 DDPM. `refine`: a
plain float32 decomposition of every weight by numpy / ours; `error` is the largest relative
difference to a decomposition in float64. `sampling`: images of the dense network / of the one pruned
by 70 % (StyleGAN2) or 50 % (one denoising step of the UNet). `scoring`: timesteps of diff_prune per
second.
"""

import copy
import functools
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.pruning.criteria import DiffPrune
from hf_ganzip.pruning.rules import rule_of
from hf_ganzip.refine import RefineConfig, scale_singular_values
from hf_ganzip.refine.refine import selection


def cifar_unet(quick: bool) -> UNet2DModel:
    """The structure of google/ddpm-cifar10-32."""
    widths = (32, 64) if quick else (128, 256, 256, 256)
    down = ("DownBlock2D", "AttnDownBlock2D", *("DownBlock2D",) * (len(widths) - 2))
    up = (*("UpBlock2D",) * (len(widths) - 2), "AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=32, block_out_channels=widths, layers_per_block=2, down_block_types=down, up_block_types=up
    )


def plain(weight: torch.Tensor, dtype) -> np.ndarray:
    """M = U diag(sqrt(s)) V^T by numpy."""
    u, s, vh = np.linalg.svd(weight.detach().flatten(1).numpy().astype(dtype), full_matrices=False)
    return (u * np.sqrt(s)) @ vh


def refining(models: dict, arguments) -> list[dict]:
    """One row a model."""
    rows = []
    for name, model in models.items():
        names, _ = selection(model, RefineConfig())
        parameters = dict(model.named_parameters())
        weights = [parameters[each] for each in names if parameters[each].ndim >= 2]
        error = 0.0
        for weight in weights[:: max(1, len(weights) // 12)]:
            exact = plain(weight, np.float64)
            found = scale_singular_values(weight).detach().flatten(1).double().numpy()
            error = max(error, float(np.abs(found - exact).max() / np.abs(exact).max()))
        seconds = interleaved(
            {
                "numpy": lambda weights=weights: [plain(weight, np.float32) for weight in weights],
                "ours": lambda weights=weights: [scale_singular_values(weight) for weight in weights],
            },
            arguments.repeats,
            warm_up=False,
        )
        row = {"section": "refine", "model": name, "weights": len(weights), "error": error}
        row |= {f"{side} s": statistics.median(values) for side, values in seconds.items()}
        rows.append(row | ratio(seconds["numpy"], seconds["ours"]) | {"target": ">= 5"})
    return rows


@torch.no_grad()
def sampling(models: dict, arguments) -> list[dict]:
    """One row a model: dense against pruned, batches of the same size."""
    rows = []
    for (name, model), share, batch, target in zip(models.items(), (0.7, 0.5), (2, 32), (">= 4", ">= 2.5")):
        pruned = copy.deepcopy(model)
        report = gz.prune_(pruned, gz.PruneConfig("random", share))
        channels = model.config.get("in_channels", 0)
        side = model.config["sample_size"] if channels else 0
        inputs = (torch.randn(batch, channels, side, side), 10) if channels else (model.draw_latents(batch),)
        sides = {"dense": functools.partial(model, *inputs), "pruned": functools.partial(pruned, *inputs)}
        seconds = interleaved(sides, arguments.repeats)
        row = {"section": "sampling", "model": f"{name} - {share:.0%}", "batch": batch}
        row |= {"macs": report.macs_before / report.macs_after}
        row |= {f"{side} s": statistics.median(values) for side, values in seconds.items()}
        rows.append(row | ratio(seconds["dense"], seconds["pruned"]) | {"target": target})
    return rows


def scoring(models: dict, arguments) -> list[dict]:
    """Timesteps per second of diff_prune."""
    (name, model), images, steps = list(models.items())[-1], 4 if arguments.quick else 16, 3
    data = torch.rand(images, 3, 32, 32) * 2 - 1
    criterion = DiffPrune(data, timesteps=steps, threshold=0.0, batch_size=images, progress=False)
    start = time.perf_counter()
    criterion(model, rule_of(model).sets(model))
    rate = steps / (time.perf_counter() - start)
    return [{"section": "scoring", "model": name, "images": images, "steps per s": rate}]


SECTIONS = {"refine": refining, "sampling": sampling, "scoring": scoring}


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument(
        "--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS), help="Sections to run."
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    quick = arguments.quick
    models = {
        "StyleGAN2-256 base": gz.StyleGAN2Generator(
            resolution=32 if quick else 256, channel_base=512 if quick else 32768
        ).eval(),
        "UNet CIFAR-10": cifar_unet(quick).eval(),
    }
    rows = [row for section in arguments.only for row in SECTIONS[section](models, arguments)]
    report(rows, conditions(arguments, "diffusers"), arguments.json)


if __name__ == "__main__":
    main()
