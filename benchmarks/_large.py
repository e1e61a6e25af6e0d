# SPDX-License-Identifier: Apache-2.0
"""Quantizing the UNet of Stable Diffusion 1.5 (random weights, float16) while loading it, every side in fresh
processes and in turn.

As a script it is one such process: ``python benchmarks/_large.py THREADS SIDE FOLDER SMALL [SAVE]`` opens FOLDER as
SIDE and prints a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_ganzip as gz
from benchmarks._memory import peak_above
from benchmarks._timing import ratio
from hf_ganzip.evaluation.cost import held_bytes


_OURS = ("auto", "mse_clip", "codebook", "aciq")  # the first is the default, the last as in the paper
_WIDTHS = (320, 640, 1280, 1280)
_MIB = 2**20


def add_options(parser) -> None:
    group = parser.add_argument_group("section large")
    group.add_argument(
        "--large-model", metavar="FOLDER", help="a UNet2DConditionModel in float16 instead of one that is built"
    )


def build(folder: Path, widths: tuple[int, ...]) -> None:
    """Save a UNet like Stable Diffusion 1.5's with widths of its own, normal weights by seed 0, float16."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = UNet2DConditionModel(
            sample_size=64, block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8
        )
    model = model.to(torch.float16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            else:
                parameter.fill_(float(name.endswith("weight")))
    model.save_pretrained(folder)


def _config(side: str) -> Any:
    if side in ("plain", "reload"):
        return None
    if side == "SDNQ":
        from sdnq import SDNQConfig

        return SDNQConfig(weights_dtype="uint4", quant_conv=True)
    return gz.GanzipConfig() if side == "auto" else gz.GanzipConfig(method=side)


def open_once(side: str, folder: Path, small: Path, save: Path | None) -> dict[str, float]:
    """Seconds (by the clock, and of the processor), MiB that opening needs above what the process held, MiB held and
    of the largest tensor; saved where asked.
    """

    def load(path: Path):
        options = {} if (config := _config(side)) is None else {"quantization_config": config}
        return UNet2DConditionModel.from_pretrained(path, torch_dtype=torch.float16, **options)

    load(small)  # imports what is imported late
    found: dict[str, Any] = {}

    def timed() -> None:
        began, busy = time.perf_counter(), time.process_time()
        found["model"] = model = load(folder)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.flatten()[::1024].sum()  # files are mapped: touch every page
        found["s"], found["CPU s"] = time.perf_counter() - began, time.process_time() - busy

    peak = peak_above(timed)
    model = found.pop("model")
    if save is not None:
        model.save_pretrained(save)
    largest = max(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return found | {"peak MiB": peak, "MiB": held_bytes(model) / _MIB, "largest MiB": largest / _MIB}


def _process(side: str, folder: Path, small: Path, threads: int, save: Path | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, str(threads), side, str(folder), str(small), *([str(save)] if save else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(side, found, file=sys.stderr, flush=True)
    return found


def large_section(arguments) -> list[dict]:
    with tempfile.TemporaryDirectory() as name:
        return _measured(Path(name), arguments)


def _measured(folder: Path, arguments) -> list[dict]:
    widths = (64, 128, 128, 128) if arguments.quick else _WIDTHS
    small, saved, alike = folder / "small", folder / "saved", folder / "alike"
    build(small, (32, 32, 32, 32))
    large = Path(arguments.large_model or folder / "large")
    if not arguments.large_model:
        build(large, widths)
    build(alike, tuple(width // 2 for width in widths))  # a fourth of the bytes, as 4 bits are of 16
    ours = _OURS[:1] if arguments.quick else _OURS
    sides = ["plain", *ours, *(["SDNQ"] if importlib.util.find_spec("sdnq") else [])]
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.repeats):
        for side in sides:
            save = saved if side == "auto" and number == 0 else None
            found.setdefault(side, []).append(_process(side, large, small, arguments.threads, save))
        for side, path in (("our folder", saved), ("plain folder", alike)):
            found.setdefault(side, []).append(_process("reload", path, small, arguments.threads))
    rows = [
        {"section": "large", "method": side} | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for side, runs in found.items()
    ]
    return rows + [{"section": "large, ratios"} | row for row in _ratios(found)]


def _ratios(found: dict[str, list[dict[str, float]]]) -> list[dict]:
    """Of seconds and of peaks, run by run."""
    rows = []
    for key, name in (("s", "seconds"), ("CPU s", "CPU seconds"), ("peak MiB", "peak memory")):
        values = {side: [run[key] for run in runs] for side, runs in found.items()}
        if "SDNQ" in values:
            rows.append({"method": f"{name}: auto / SDNQ"} | ratio(values["auto"], values["SDNQ"]))
        rows += [
            {"method": f"{name}: {side} / auto"} | ratio(values[side], values["auto"])
            for side in _OURS[1:]
            if side in values
        ]
        rows.append({"method": f"{name}: auto / plain"} | ratio(values["auto"], values["plain"]))
        per_byte = {side: [run[key] / run["MiB"] for run in found[side]] for side in ("our folder", "plain folder")}
        rows.append({"method": f"{name} per byte: our folder / plain folder"} | ratio(*per_byte.values()))
    for side in [side for side in found if side in (*_OURS, "SDNQ")]:
        allowed = [
            run["MiB"] + 3 * plain["largest MiB"] + plain["peak MiB"] - plain["MiB"]
            for run, plain in zip(found[side], found["plain"])
        ]
        name = f"peak memory: {side} / (packed + 3 largest tensors + plain's peak above plain's bytes)"
        rows.append({"method": name} | ratio([run["peak MiB"] for run in found[side]], allowed))
    return rows


if __name__ == "__main__":
    threads, which, *paths = sys.argv[1:]
    torch.set_num_threads(int(threads))
    opened, tiny, *target = map(Path, paths)
    print(json.dumps(open_once(which, opened, tiny, target[0] if target else None)))
