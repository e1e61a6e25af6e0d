# SPDX-License-Identifier: Apache-2.0
"""Run the loading snippet of a card in a fresh process and compare what it loads, bit for bit, with what was saved."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.components import all_networks, is_pipeline
from ..families import example_inputs, family_of
from . import alone
from .alone import MARK, Inputs, fingerprint_of


Fingerprint = dict[str, dict[str, str | None]]


def networks_of(model_or_pipeline: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline by their names; a model alone is "model"."""
    return all_networks(model_or_pipeline) if is_pipeline(model_or_pipeline) else {"model": model_or_pipeline}


def fingerprint(model_or_pipeline: Any) -> Fingerprint:
    """SHA-256 of all tensors of every network, and of its output on its family's example inputs (None without one).

    Args:
        model_or_pipeline: Not changed; outputs come from a copy on the CPU with gradients off and contiguous tensors,
            because strides, devices and gradients choose other kernels.
    """
    return {name: fingerprint_of(each, _inputs(each)) for name, each in networks_of(model_or_pipeline).items()}


def _inputs(model: nn.Module) -> Inputs | None:
    return None if family_of(model) is None else example_inputs(model)


def run_snippet(snippet: str) -> Fingerprint:
    """Execute a loading snippet in a fresh Python process; fingerprint of the ``model`` or ``pipe`` that it defines.

    Raises:
        RuntimeError: The snippet fails, or defines neither.
    """
    return _run(snippet, ["-m", __name__])


def run_remote_snippet(snippet: str, model_or_pipeline: Any, *, without_us: bool) -> Fingerprint:
    """Fingerprint of what a snippet loads with remote code, in a fresh process that has not imported hf_ganzip.

    Args:
        snippet: Defines ``model`` or ``pipe``.
        model_or_pipeline: What was saved: it tells the inputs.
        without_us: Whether hf_ganzip cannot be imported there.

    Raises:
        RuntimeError: The snippet fails.
    """
    inputs = {name: _inputs(each) for name, each in networks_of(model_or_pipeline).items()}
    return _run(snippet, [str(alone.__file__)], inputs, blocked="hf_ganzip" if without_us else "")


def _run(
    snippet: str, script: list[str], inputs: dict[str, Inputs | None] | None = None, blocked: str = ""
) -> Fingerprint:
    with tempfile.TemporaryDirectory() as folder:
        file, saved = Path(folder, "snippet.py"), Path(folder, "inputs.pt")
        file.write_text(snippet, encoding="utf-8")
        torch.save(inputs, saved)
        command = [sys.executable, *script, str(file), str(torch.get_num_threads()), str(saved), blocked]
        result = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    if result.returncode or not lines:
        raise RuntimeError(f"the loading snippet failed in a fresh process:\n{snippet}\n{result.stderr[-2000:]}")
    found: Fingerprint = json.loads(lines[-1].removeprefix(MARK))
    return found


def differences(expected: Fingerprint, found: Fingerprint) -> list[str]:
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
    print(MARK + json.dumps(fingerprint(names["pipe"] if "pipe" in names else names["model"])))


if __name__ == "__main__":
    main()
