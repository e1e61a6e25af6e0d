# SPDX-License-Identifier: Apache-2.0
"""Time of computing with integers (`compute="int8"`, W8A8) against float32 and bfloat16, as ratios within one run;
memory that int8 copies take.

Rows: a UNet of CIFAR-10 size (36M, as google/ddpm-cifar10-32 is built, random weights) and StyleGAN2 for 256 x 256
pixels with the official base widths (random weights). float32 and bfloat16 run eagerly, integers eagerly and, with
`--compile`, compiled.
"""

import copy
import sys
from functools import partial
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.quantization.int8 import kernels


def unet(quick: bool):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    model = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64, 64) if quick else (128, 256, 256, 256),
        attention_head_dim=None,
        down_block_types=blocks,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(blocks)),
    )
    return model.eval(), (torch.randn(4, 3, 32, 32), torch.tensor(500))


def stylegan2(quick: bool):
    torch.manual_seed(0)
    channels = (32, 32, 32) if quick else (512, 512, 512, 512, 256, 128, 64)
    model = gz.StyleGAN2Generator(resolution=4 * 2 ** (len(channels) - 1), image_channels=3, channels=channels)
    return model.eval(), (torch.randn(4, model.config.z_dim),)


MODELS = {
    "unet": (unet, {"float32": ">= 2.5", "bfloat16": ">= 1.25"}),
    "stylegan2": (stylegan2, {"float32": ">= 2", "bfloat16": None}),
}


@torch.no_grad()
def main() -> None:
    arguments_parser = parser(__doc__, repeats=7)
    arguments_parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), help="models")
    arguments_parser.add_argument("--compile", action="store_true", help="also compiled (minutes)")
    arguments_parser.add_argument(
        "--range", default="minmax", help="of activations; its calibration is not timed (default: %(default)s)"
    )
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.only:
        make, targets = MODELS[name]
        model, inputs = make(arguments.quick)
        half = copy.deepcopy(model).bfloat16()
        rounded = copy.deepcopy(model)
        given = partial(model, *inputs)

        def inputs_of(model, batch_size, seed, inputs=inputs):
            while True:
                yield lambda module: module(*inputs)

        gz.quantize_(
            rounded, bits=8, activations="int8", activation_range=arguments.range, activation_inputs=inputs_of
        )
        packed = held_bytes(rounded)
        rounded(*inputs)
        sides = {
            "float32": given,
            "bfloat16": partial(half, *(x.bfloat16() if x.is_floating_point() else x for x in inputs)),
            "int8": partial(rounded, *inputs),
        }
        memory = (held_bytes(rounded) - packed) / packed
        if arguments.compile:
            sides["int8, compiled"] = partial(torch.compile(rounded), *inputs)
        seconds = interleaved(sides, arguments.repeats)
        for side in list(sides)[2:]:
            for other, target in targets.items():
                row = {"method": f"{name}: {other} / {side}"} | ratio(seconds[other], seconds[side])
                rows.append(row | ({"target": target} if target else {}))
        rows.append({"method": f"{name}: int8 copies / packed weights", "ratio": memory})
    report(rows, conditions(arguments) | {"kernels": kernels()}, arguments.json)


if __name__ == "__main__":
    main()
