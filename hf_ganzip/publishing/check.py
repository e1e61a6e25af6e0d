# SPDX-License-Identifier: Apache-2.0
"""Run the loading snippet of a card in a fresh process and compare what it loads, bit for bit, with what was saved."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..components import all_networks, is_pipeline
from ..families import example_inputs, family_of


_MARK = "fingerprint "


def networks_of(model_or_pipeline: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline by their names; a model alone is "model"."""
    return all_networks(model_or_pipeline) if is_pipeline(model_or_pipeline) else {"model": model_or_pipeline}


def fingerprint(model_or_pipeline: Any) -> dict[str, dict[str, str | None]]:
    """SHA-256 of all tensors of every network, and of its output on the example inputs of its family (None without a family).

    Args:
        model_or_pipeline: Not changed; outputs come from a copy on the CPU with gradients off and contiguous tensors, because strides, devices and
            gradients choose other kernels.
    """
    return {name: _fingerprint(each) for name, each in networks_of(model_or_pipeline).items()}


def _fingerprint(model: nn.Module) -> dict[str, str | None]:
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    tensors = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensors.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + _bytes(tensor))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    if family_of(model) is None:
        return {"tensors": tensors.hexdigest(), "output": None}
    args, kwargs = example_inputs(model)
    with torch.no_grad():
        output = model(*args, return_dict=False, **kwargs)[0]
    output = getattr(output, "mean", output) if not isinstance(output, Tensor) else output  # latents of autoencoders
    return {"tensors": tensors.hexdigest(), "output": hashlib.sha256(_bytes(output)).hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def run_snippet(snippet: str) -> dict[str, dict[str, str | None]]:
    """Execute a loading snippet in a fresh Python process; fingerprint of the ``model`` or ``pipe`` that it defines.

    Raises:
        RuntimeError: The snippet fails, or defines neither.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "snippet.py")
        file.write_text(snippet, encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(file), str(torch.get_num_threads())]
        result = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith(_MARK)]
    if result.returncode or not lines:
        raise RuntimeError(f"the loading snippet failed in a fresh process:\n{snippet}\n{result.stderr[-2000:]}")
    found: dict[str, dict[str, str | None]] = json.loads(lines[-1].removeprefix(_MARK))
    return found


def differences(expected: dict[str, dict[str, str | None]], found: dict[str, dict[str, str | None]]) -> list[str]:
    """What differs between two fingerprints, in words."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    for name, each in expected.items():
        problems += [f"{kind} of {name}" for kind in each if name in found and each[kind] != found[name][kind]]
    return problems


def main() -> None:
    """Child process: execute the file, print the fingerprint."""
    torch.set_num_threads(int(sys.argv[2]))
    names: dict[str, Any] = {}
    exec(compile(Path(sys.argv[1]).read_text(encoding="utf-8"), "snippet", "exec"), names)  # our own card's snippet
    print(_MARK + json.dumps(fingerprint(names["pipe"] if "pipe" in names else names["model"])))


if __name__ == "__main__":
    main()
