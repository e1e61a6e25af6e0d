# SPDX-License-Identifier: Apache-2.0
"""Singular Value Scaling of whole networks against a plain float32 decomposition of every weight, as ratios within one run.

StyleGAN2 for 256 pixels with base widths, and a UNet of the size of the CIFAR-10 DDPM. `error`: largest relative difference to a decomposition in
float64.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
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


def main() -> None:
    arguments = parser(__doc__, repeats=3).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    quick = arguments.quick
    models = {
        "StyleGAN2-256 base": gz.StyleGAN2Generator(
            resolution=32 if quick else 256, channel_base=512 if quick else 32768
        ),
        "UNet CIFAR-10": cifar_unet(quick),
    }
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
        row = {"model": name, "weights": len(weights), "error": error}
        row |= {f"{side} s": statistics.median(values) for side, values in seconds.items()}
        rows.append(row | ratio(seconds["numpy"], seconds["ours"]) | {"target": ">= 5"})
    report(rows, conditions(arguments, "diffusers"), arguments.json)


if __name__ == "__main__":
    main()
