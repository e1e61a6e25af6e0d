# SPDX-License-Identifier: Apache-2.0
"""Checks shared by all metrics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


MAX_SEED = 2**32 - 1  # of NumPy's RandomState, and for all metrics


def as_features(*, real: Any, generated: Any) -> tuple[Tensor, Tensor]:
    """Two feature sets as float32 or float64 tensors (N, d), (M, d) of one dtype on the device of ``real``.

    Half precision and integers are widened to float32; float32 and float64 are not copied, unless they are far from 1.

    Raises:
        TypeError: Not an array, tensor or nested list of numbers.
        ValueError: Not two-dimensional, fewer than 2 rows, no columns, different dimensions, NaN or infinity.
    """
    sets = {name: widened(as_matrix(name, values)) for name, values in (("real", real), ("generated", generated))}
    for name, values in sets.items():
        if len(values) < 2:
            raise ValueError(f"{name} has {len(values)} rows; at least 2 are needed.")
        check_finite(name, values)
    check_same_dimension(sets["real"].shape[1], sets["generated"].shape[1])
    return for_distances(sets["real"], sets["generated"])


def as_matrix(name: str, values: Any) -> Tensor:
    """``values`` as a detached tensor (n, d), n >= 0, d >= 1, of its float dtype, or float32; not looked at."""
    if not isinstance(values, Tensor):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
                values = torch.as_tensor(np.asarray(values))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} is {type(values).__name__}; allowed are arrays or tensors of numbers (N, d)."
            ) from error
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; allowed is (N, d), one feature vector per row.")
    if values.is_complex():
        raise TypeError(f"{name} is {values.dtype}; allowed are real numbers.")
    return values.detach() if values.is_floating_point() else values.float()


def widened(values: Tensor) -> Tensor:
    """Half precision as float32."""
    return values if values.dtype == torch.float64 else values.float()


def check_finite(name: str, values: Tensor) -> None:
    """Raise if ``values`` (n, d) hold NaN or infinity. One sum tells in the common case: neither can vanish in it."""
    if torch.isfinite(values.sum()):
        return
    if bad := int((~torch.isfinite(values)).any(dim=1).sum()):
        raise ValueError(f"{name} has NaN or infinity in {bad} of {len(values)} rows; remove them first.")


def for_distances(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in one dtype on the device of ``real``; float64 where squares would leave the range of float32."""
    dtype = torch.promote_types(real.dtype, generated.dtype)
    if dtype == torch.float32:
        largest = max(float(bound) for values in (real, generated) for bound in map(abs, values.aminmax()))
        dtype = torch.float32 if largest == 0 or 2.0**-40 < largest < 2.0**40 else torch.float64
    return real.to(dtype), generated.to(real.device, dtype)


def check_same_dimension(real: int, generated: int) -> None:
    """Raise if the two sets differ in their dimension."""
    if real != generated:
        raise ValueError(
            f"real has dimension {real} and generated has dimension {generated}; "
            f"both must come from the same feature extractor."
        )


def check_integer(name: str, value: Any, smallest: int, largest: int | None = None) -> None:
    """Raise unless ``value`` is an integer in ``smallest`` .. ``largest``."""
    allowed = f"integers from {smallest}" + ("" if largest is None else f" to {largest}")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; allowed are {allowed}.")
    if value < smallest or (largest is not None and value > largest):
        raise ValueError(f"{name} is {value}; allowed are {allowed}.")


def matmul_dtype(values: Tensor) -> torch.dtype:
    """Dtype for matrix products: float64 for float64, and where reduced precision (TF32, bfloat16) is switched on."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if values.dtype != torch.float64 and exact else torch.float64
