# SPDX-License-Identifier: Apache-2.0
"""Checks shared by all metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


LARGEST = 1e15  # larger values overflow when squared in float32
_KINDS = "allowed are real floating-point features (N, d). Convert with .float(); images must pass an extractor first."


def as_features(*, real: Any, generated: Any) -> tuple[Tensor, Tensor]:
    """Two feature sets as float32 or float64 tensors (N, d), (M, d) on the device of ``real``.

    Half precision is widened to float32; nested lists become float64.

    Raises:
        TypeError: Not an array, tensor or nested list of real floating-point numbers.
        ValueError: Not two-dimensional, fewer than 2 rows, no columns, different dimensions, NaN, infinity or values
            beyond 1e15.

    Example:
        >>> real, generated = as_features(real=np.ones((4, 3), np.float16), generated=[[1, 2, 3], [4, 5, 6]])
        >>> real.shape, generated.dtype
        (torch.Size([4, 3]), torch.float64)
    """
    real, generated = _as_tensor("real", real), _as_tensor("generated", generated)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real has dimension {real.shape[1]} and generated has dimension {generated.shape[1]}; both must be equal. "
            "Take both from the same feature extractor."
        )
    dtype = torch.promote_types(real.dtype, generated.dtype)
    return real.to(dtype), generated.to(real.device, dtype)


def check_integer(name: str, value: Any, smallest: int, largest: int | None = None) -> int:
    """Return ``value`` as a plain integer within ``smallest`` and ``largest``, both included.

    Raises:
        TypeError: Not an integer (a boolean is none).
        ValueError: Out of range.

    Example:
        >>> check_integer("k", 0, 1)
        Traceback (most recent call last):
        ValueError: k is 0; allowed are integers from 1.
    """
    allowed = f"allowed are integers from {smallest}" + ("." if largest is None else f" to {largest}.")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); {allowed}")
    if value < smallest or (largest is not None and value > largest):
        raise ValueError(f"{name} is {value}; {allowed}")
    return int(value)


def _as_tensor(name: str, values: Any) -> Tensor:
    values = values.detach() if isinstance(values, Tensor) else _from_array(name, values)
    if not values.is_floating_point():
        raise TypeError(f"{name} is a tensor of dtype {values.dtype}; {_KINDS}")
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; allowed is (N, d), one feature vector per row.")
    if len(values) < 2:
        raise ValueError(f"{name} has {len(values)} rows; at least 2 are needed.")
    if values.dtype != torch.float64:
        values = values.float()
    finite = torch.isfinite(values).all(dim=1)
    if not finite.all():
        broken = len(values) - int(finite.sum())
        raise ValueError(f"{name} has NaN or infinity in {broken} of {len(values)} rows; remove or repair them first.")
    if (largest := float(values.abs().max())) > LARGEST:
        raise ValueError(f"{name} has values up to {largest:.3g}; allowed are up to {LARGEST:.0e}. Rescale both sets.")
    return values


def _from_array(name: str, values: Any) -> Tensor:
    try:
        array = np.asarray(values, dtype=np.float64 if isinstance(values, (list, tuple)) else None)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is no table of numbers ({error}); allowed are arrays or tensors (N, d).") from error
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} is {type(values).__name__} of dtype {array.dtype}; {_KINDS}"
        )
    # torch needs native byte order, positive strides and writeable memory
    return torch.from_numpy(np.require(array, np.float64 if array.dtype.itemsize > 4 else np.float32, ["C", "W"]))
