# SPDX-License-Identifier: Apache-2.0
"""A written file in ONNX Runtime against the model in torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .interface import Interface
from .libraries import Session
from .report import Compared
from .tracing import run_in_torch


_BATCHES = (2, 1, 3)  # in turn


def compare_with_torch(file: Path, interface: Interface, count: int, *, integer: bool = False) -> Compared:
    """Run ``count`` inputs of different batch sizes through both; the first leaves out the noise, if there is any."""
    session = Session(file, integer=integer)
    largest = signal = error = 0.0
    for number in range(count):
        inputs = interface.example if number == 0 else interface.draw(_BATCHES[number % len(_BATCHES)], number)
        if number == 0:
            inputs = {name: value for name, value in inputs.items() if name != "noise"}
        found = session({name: value.numpy() for name, value in inputs.items()}, interface.outputs)
        expected = [tensor.numpy() for tensor in run_in_torch(interface, inputs)]
        largest = max(largest, *(_difference(*pair) for pair in zip(found, expected)))
        signal += float(np.square(expected[0], dtype=np.float64).sum())
        error += float(np.square(expected[0] - found[0], dtype=np.float64).sum())
    sqnr = 10 * math.log10(signal / error) if signal and error else None
    return Compared(count, largest, sqnr)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the largest expected magnitude, at least 1; infinite for other shapes or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
