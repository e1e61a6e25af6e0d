# SPDX-License-Identifier: Apache-2.0
"""Exported models in ONNX Runtime, with integer products and in floating point, against torch float32 eager; OpenVINO
on the same files where it is installed.

Rows: the 36M UNet of CIFAR-10 size (random weights), the bundled DDPM and StyleGAN2, StyleGAN2 at 256 pixels with the
official widths (random weights), dense and with 70 % of its channels pruned, against the dense model in torch.
`sqnr_db` is that of the integer file against our own int8 layers; `of_least_times` the ratio of the fastest runs,
which are `torch_ms` and `int8_ms`, and which other programs on the machine disturb least. Random weights compute as
fast as trained ones.
"""

import copy
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._timing import conditions, interleaved, parser, ratio, report
from benchmarks.computing import unet
from hf_ganzip.exporting.libraries import Session
from hf_ganzip.families import example_inputs


TARGETS = {
    "UNet 36M": 4.0,
    "ddpm-fashion-mnist": 3.0,
    "stylegan2-fashion-mnist": 2.0,
    "StyleGAN2 256": 2.5,
    "StyleGAN2 256, pruned by 70 %": 15.0,
}
BATCHES = {"UNet 36M": 4, "StyleGAN2 256": 4, "StyleGAN2 256, pruned by 70 %": 4}  # others 16


def models(quick: bool) -> dict:
    """Name -> (model to export, model in torch)."""
    torch.manual_seed(0)
    options = {"channel_base": 1024} if quick else {}
    styled = gz.StyleGAN2Generator.from_preset("ffhq-256-base", **options).eval()
    pruned = copy.deepcopy(styled)
    # Of 8: float convolutions of other widths are computed as matrix products, in twice the time.
    gz.prune_(pruned, gz.PruneConfig(ratio=0.7, multiple_of=8))
    bundled = {name: gz.load_model(name).eval() for name in ("ddpm-fashion-mnist", "stylegan2-fashion-mnist")}
    noise = unet(quick)
    found = {"UNet 36M": (noise, noise), **{name: (model, model) for name, model in bundled.items()}}
    found["StyleGAN2 256"] = (styled, styled)
    found["StyleGAN2 256, pruned by 70 %"] = (pruned, styled)
    return found


def one_pass(model, batch_size, seed):
    """Ranges of activations from one pass: what they are does not change the time."""
    args, kwargs = example_inputs(model)
    yield lambda module: module(*args, **kwargs, return_dict=False)[0]


def inputs_of(model, batch: int) -> tuple[dict, tuple, dict]:
    """Feeds of the file, and arguments in torch."""
    torch.manual_seed(1)
    config = model.config
    if hasattr(model, "draw_latents"):
        z, rows = torch.randn(batch, config.z_dim), None
        feeds = {"z": z.numpy(), "truncation_psi": torch.ones(model.num_ws).numpy()}
        if config.num_classes:
            rows = torch.eye(config.num_classes)[torch.arange(batch) % config.num_classes]
            feeds["class_labels"] = rows.numpy()
        return feeds, (z, rows), {"noise_mode": "const"}
    x, steps = (
        torch.randn(batch, config.in_channels, config.sample_size, config.sample_size),
        torch.full((batch,), 400),
    )
    return {"sample": x.numpy(), "timestep": steps.numpy()}, (x, steps), {}


def openvino(file: Path, threads: int):
    """The file compiled by OpenVINO; None where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    core = ov.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(file), "CPU", options)


def row(name: str, model, reference, arguments) -> dict:
    batch = min(2, BATCHES.get(name, 16)) if arguments.quick else BATCHES.get(name, 16)
    small = copy.deepcopy(model)
    gz.quantize_(small, bits=8, activations="int8", activation_inputs=one_pass)
    with tempfile.TemporaryDirectory() as folder:
        integer, floating = Path(folder, "int8"), Path(folder, "float")
        gz.set_compute_(small, "int8")
        exported = gz.export(small, integer, checks=1, activation_inputs=one_pass)
        gz.export(model, floating, checks=1)
        feeds, args, kwargs = inputs_of(reference, batch)
        sides = {"torch": partial(in_torch, reference, args, kwargs)}
        if model is not reference:
            feeds = inputs_of(model, batch)[0]
        sides["int8"] = partial(Session(integer / "model.onnx", integer=True, threads=arguments.threads), feeds)
        sides["float"] = partial(Session(floating / "model.onnx", threads=arguments.threads), feeds)
        compiled = openvino(integer / "model.onnx", arguments.threads)
        if compiled is not None:
            given = {each.get_any_name() for each in compiled.inputs}
            sides["openvino"] = partial(compiled, {key: value for key, value in feeds.items() if key in given})
        seconds = interleaved(sides, arguments.repeats)
    fast = {side: ratio(seconds["torch"], seconds[side]) for side in sides if side != "torch"}
    found = {
        "model": name,
        "batch": batch,
        "torch_ms": 1e3 * min(seconds["torch"]),
        "int8_ms": 1e3 * min(seconds["int8"]),
    }
    found["of_least_times"] = found["torch_ms"] / found["int8_ms"]
    found |= fast["int8"] | {"target": TARGETS[name], "float_ratio": fast["float"]["ratio"]}
    found["openvino_ratio"] = fast["openvino"]["ratio"] if "openvino" in fast else None
    return found | {"sqnr_db": exported.compared.sqnr_db, "bytes": exported.bytes}


@torch.inference_mode()
def in_torch(model, args, kwargs):
    return model(*args, **kwargs)


def main() -> None:
    options = parser(__doc__, repeats=9)
    options.add_argument("--only", help="only the models whose names begin so")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = {name: pair for name, pair in models(arguments.quick).items() if name.startswith(arguments.only or "")}
    rows = [row(name, *pair, arguments) for name, pair in chosen.items()]
    report(rows, conditions(arguments, "onnxruntime", "onnx"), arguments.json)


if __name__ == "__main__":
    main()
