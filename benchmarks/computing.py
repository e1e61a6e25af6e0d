# SPDX-License-Identifier: Apache-2.0
"""What packed computing costs in time and saves in memory: a forward pass of a quantized model that unpacks every
weight in every pass (`compute="packed"`, the default) against one that keeps the unpacked weights (`"dequantized"`).

Rows: a 36M UNet of CIFAR-10 size at batch 4 and the bundled GANs at batch 16, by bits and granularity; and the memory
of unpacking all weights of the UNet one after the other, above that of the packed model, against its largest weight in
full precision.
"""

import copy
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from hf_ganzip.quantization import buffers
from hf_ganzip.quantization.packed import packed_modules


SETTINGS = {
    "4 bits": {"bits": 4},
    "4 bits of the paper": {"preset": "paper", "bits": 4},
    "4 bits, codebook per channel": {"preset": "paper", "method": "codebook", "bits": 4, "granularity": "channel"},
    "3 bits": {"bits": 3},
    "3 bits, not rotated": {"bits": 3, "hadamard": False},
    "3 bits, channels with offsets": {"preset": "paper", "bits": 3, "granularity": "channel", "symmetric": False},
}


def unet(quick: bool):
    """UNet of CIFAR-10 size, 36M parameters, random."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    widths = (32, 64, 64, 64) if quick else (128, 256, 256, 256)
    return UNet2DModel(
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=blocks,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(blocks)),
    ).eval()


def passes(arguments) -> dict:
    """Model name -> (model, its inputs)."""
    found = {"UNet 36M, batch 4": (unet(arguments.quick), (torch.randn(4, 3, 32, 32), torch.tensor(500)))}
    for name in ("stylegan2-fashion-mnist", "biggan-fashion-mnist"):
        model = gz.load_model(name).eval()
        inputs = (torch.randn(16, model.config.z_dim), torch.arange(16) % model.config.num_classes)
        found[f"{name}, batch 16"] = (model, inputs)
    return found


def live_peak(call: Callable) -> int:
    """Most bytes of tensors that are alive at once during a call and were made in it; not what the allocator keeps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    live = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


@torch.no_grad()
def main() -> None:
    arguments = parser(__doc__, repeats=15).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, (model, inputs) in passes(arguments).items():
        for setting, options in list(SETTINGS.items())[: 1 if arguments.quick else None]:
            packed = copy.deepcopy(model)
            gz.quantize_(packed, **options)
            kept = copy.deepcopy(packed)
            gz.set_compute_(kept, "dequantized")
            sides = {"packed": partial(packed, *inputs), "dequantized": partial(kept, *inputs)}
            seconds = interleaved(sides, arguments.repeats)
            row = {"method": f"{name}, {setting}: packed / dequantized"} | ratio(
                seconds["packed"], seconds["dequantized"]
            )
            rows.append(row | {"s": statistics.median(seconds["packed"]), "target": "<= 1.1"})
    model = unet(arguments.quick)
    gz.quantize_(model, bits=4, preset="paper")
    layers = packed_modules(model).values()
    largest = max(4 * math.prod(layer.packed_layout.shape) for layer in layers) / 2**20
    buffers._memory.kept = None  # what earlier passes left to this thread
    above = live_peak(lambda: [layer.weight.shape for layer in layers]) / 2**20
    rows.append(
        {"method": "UNet 36M: memory of unpacking / largest weight", "ratio": above / largest, "target": "<= 1"}
    )
    report(rows, conditions(arguments), arguments.json)


if __name__ == "__main__":
    main()
