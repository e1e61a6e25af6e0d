# SPDX-License-Identifier: Apache-2.0
"""What a model costs on this machine, beside the one it was made from: parameters, MACs, bytes, memory, latency."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.flop_counter import FlopCounterMode

from ..core.components import network_of
from ..core.modes import evaluating
from ..core.record import machine, versions
from ..core.reports import Report, conditions_table
from ..families import example_inputs, family_of
from ..quantization.packed import packed_modules, packed_parameters


_FASTER = 1.05  # ratios of latencies below this are no difference


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Args:
        parameters: Number of parameters; packed weights count as many as they unpack to.
        macs: Multiply-accumulate operations of one forward pass of one sample (convolutions and matrix products).
        bytes_on_disk: Of the saved weights.
        bytes_in_memory: Of all tensors that it holds after a forward pass, see :func:`.held_bytes`: unpacked weights
            count if they are kept (``compute="dequantized"``).
        peak_bytes: Highest memory of a fresh process that loads the model and runs one forward pass, above that of one
            that has only imported the libraries; on an accelerator: the highest memory allocated there. None if not
            measured.
        latency: Seconds of one forward pass, median.
    """

    parameters: int
    macs: int
    bytes_on_disk: int
    bytes_in_memory: int
    peak_bytes: int | None
    latency: float


@dataclass(frozen=True, repr=False)
class CostReport(Report):
    """Costs of a model and of the one it is compared with, and their conditions."""

    model: Cost
    reference: Cost | None
    conditions: dict[str, Any]
    computed = ("verdict",)

    @property
    def verdict(self) -> str:
        """One line that says what became smaller and what became faster, and what did not."""
        if self.reference is None:
            return "nothing to compare with"
        disk = self.reference.bytes_on_disk / self.model.bytes_on_disk
        return smaller_and_faster(disk, self.reference.latency / self.model.latency, "on disk")

    def _compared(self) -> dict[str, Cost]:
        return {"this model": self.model} | ({"reference": self.reference} if self.reference else {})

    def facts(self) -> dict[str, str]:
        costs = {name.replace("_", " "): _text(value) for name, value in asdict(self.model).items()}
        return ({"verdict": self.verdict} if self.reference else {}) | costs

    def rows(self) -> list[dict[str, Any]]:
        return [{"model": name} | asdict(cost) for name, cost in self._compared().items()]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        compared = self._compared()
        costs = [(name, *(_text(getattr(cost, name)) for cost in compared.values())) for name in asdict(self.model)]
        return {"costs": [("", *compared), *costs], "conditions": conditions_table(self.conditions)}

    def __str__(self) -> str:
        lines = [f"{'':16}{'this model':>16}" + (f"{'reference':>16}{'ratio':>8}" if self.reference else "")]
        for name, value in asdict(self.model).items():
            line = f"{name:16}{_text(value):>16}"
            if self.reference is not None:
                other = getattr(self.reference, name)
                line += f"{_text(other):>16}" + (f"{value / other:8.3f}" if value and other else "")
            lines.append(line)
        lines += [self.verdict, *(f"  {name} {value}" for name, value in self.conditions.items())]
        return "\n".join(lines)


def smaller_and_faster(size: float, speed: float, where: str) -> str:
    """What two ratios, reference over model, of bytes and of seconds come to.

    Example:
        >>> smaller_and_faster(4.0, 0.5, "on disk"), smaller_and_faster(0.9, 1.01, "in memory")
        ('4.00x smaller on disk, 2.00x slower', 'not smaller in memory, not faster')
    """
    bytes_said = f"{size:.2f}x smaller {where}" if size > 1 else f"not smaller {where}"
    if 1 / _FASTER < speed < _FASTER:
        return f"{bytes_said}, not faster"
    return f"{bytes_said}, {f'{speed:.2f}x faster' if speed > 1 else f'{1 / speed:.2f}x slower'}"


def measure_cost(
    model: ModelMixin, reference: ModelMixin | None = None, *, repeats: int = 7, memory: bool = True
) -> CostReport:
    """Measure what a model costs here and now, in eval mode, on the example inputs of its family; models stay as is.

    Args:
        model: A model of a known family, on any device, or a pipeline, whose denoiser is measured.
        reference: What it was compressed from, on the same device; both are timed in turn.
        repeats: Timed forward passes of each.
        memory: Also measure the peak memory; on CPUs, this starts a process for each model.

    Raises:
        ValueError: A model of no family, or two models on different devices.
        RuntimeError: The process that measures the memory failed.
    """
    model, reference = network_of(model), network_of(reference)
    models = {"model": model} | ({"reference": reference} if reference is not None else {})
    for name, each in models.items():
        if family_of(each) is None:
            raise ValueError(
                f"measure_cost: {name} is a {type(each).__name__}; it belongs to no family in hf_ganzip.families."
            )
    devices = {str(next(_tensors(each)).device) for each in models.values()}
    if len(devices) > 1:
        raise ValueError(f"measure_cost: the models are on different devices: {', '.join(sorted(devices))}.")
    with contextlib.ExitStack() as modes:
        for each in models.values():
            modes.enter_context(evaluating(each))
        latencies = _latencies(models, repeats)
        costs = {name: _cost(each, latencies[name], memory) for name, each in models.items()}
    conditions = {
        "device": devices.pop(),
        "machine": machine(),
        "batch_size": 2,
        "dtype": str(model.dtype),
        "compute": next((m.packed_compute for m in packed_modules(model).values()), None),
        "repeats": repeats,
        "versions": versions(),
    }
    return CostReport(costs["model"], costs.get("reference"), conditions)


def _cost(model: ModelMixin, latency: float, memory: bool) -> Cost:
    parameters = sum(p.numel() for p in model.parameters()) + packed_parameters(model)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        _run(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        peak = _peak(model, folder) if memory else None
    macs = counter.get_total_flops() // 2 // 2  # 2 flops; 2 samples
    return Cost(parameters, macs, size, held_bytes(model), peak, latency)


@torch.no_grad()
def _run(model: nn.Module) -> None:
    args, kwargs = example_inputs(model)
    model(*args, return_dict=False, **kwargs)


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _latencies(models: dict[str, nn.Module], repeats: int) -> dict[str, float]:
    """Median seconds of a forward pass, the models in turn so that drifts of the machine hit all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        _run(model)
    for _ in range(repeats):
        for name, model in models.items():
            wait_for(next(_tensors(model)).device)
            start = time.perf_counter()
            _run(model)
            wait_for(next(_tensors(model)).device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def wait_for(device: torch.device) -> None:
    """Until an accelerator has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(model: ModelMixin, folder: str) -> int:
    device = next(_tensors(model)).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        _run(model)
        return torch.cuda.max_memory_allocated(device)
    return printed_by("cost", "peak_of_folder", folder, str(model.dtype).removeprefix("torch."))


def printed_by(module: str, function: str, *arguments: str) -> int:
    """The number that a function of a module of this package prints in a fresh process.

    Raises:
        RuntimeError: The process failed.
    """
    code = f"import sys; from hf_ganzip.evaluation.{module} import {function}; {function}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
        raise RuntimeError(f"the process that measures the memory failed: {reason}. memory=False leaves it out.")
    return int(json.loads(result.stdout.splitlines()[-1]))


def peak_of_folder(folder: str, dtype: str) -> None:
    """Print the bytes by which loading the model in ``folder`` and a forward pass raise the memory of this process."""
    from ..integration.opening import load_model

    torch.zeros(1) @ torch.zeros(1)
    before = peak_so_far(reset=True)
    _run(load_model(folder, torch_dtype=getattr(torch, dtype)).eval())
    print(peak_so_far() - before)


def peak_so_far(reset: bool = False) -> int:
    """Highest bytes in memory of this process, on Linux since the last reset."""
    import resource

    if sys.platform != "linux":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _text(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{1000 * value:.2f} ms"


_NO_HOLDERS = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, str, bytes)


def held_bytes(*networks: Any) -> int:
    """Bytes of every tensor that can be reached from ``networks``, each once.

    These are parameters, buffers, and what quantizers keep elsewhere: the tensors inside of a tensor subclass
    (torchao, SDNQ), the state that hangs on a parameter (bitsandbytes), plain attributes of modules. Unpacked weights
    that are kept count, too.

    Example:
        >>> from torch import nn
        >>> held_bytes(nn.Linear(3, 2))
        32
    """
    queue: list[Any] = list(networks)
    seen: dict[int, Any] = {}  # the objects too, so that no id is given twice
    sizes: dict[tuple[Any, ...], int] = {}
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, _NO_HOLDERS):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor) and is_traceable_wrapper_subclass(item):
            queue += [getattr(item, name) for name in item.__tensor_flatten__()[0]]
        elif isinstance(item, Tensor) and item.device.type != "meta":
            size = item.numel() * item.element_size()
            if item.layout == torch.strided:
                size = min(size, item.untyped_storage().nbytes())
                sizes[(item.device, item.data_ptr(), size)] = size
            else:  # a weight that oneDNN packed: nobody else's memory
                sizes[(item.device, id(item), size)] = size
        elif isinstance(item, Mapping):
            queue += item.values()
        elif isinstance(item, (list, tuple, set)):
            queue += item
        queue += getattr(item, "__dict__", {}).values()
    return sum(sizes.values())
