# SPDX-License-Identifier: Apache-2.0
"""Checks shared by all metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_features(*, real: Any, generated: Any) -> tuple[Tensor, Tensor]:
    """Two feature sets as float32 or float64 tensors (N, d), (M, d) on the device of ``real``; half precision is widened.

    Raises:
        TypeError: Not an array, tensor or nested list of numbers.
        ValueError: Not two-dimensional, fewer than 2 rows, no columns, different dimensions, NaN or infinity.
    """
    sets = {name: _as_tensor(name, values) for name, values in (("real", real), ("generated", generated))}
    if sets["real"].shape[1] != sets["generated"].shape[1]:
        raise ValueError(
            f"real has dimension {sets['real'].shape[1]} and generated has dimension {sets['generated'].shape[1]}; "
            f"both must come from the same feature extractor."
        )
    dtype = torch.promote_types(sets["real"].dtype, sets["generated"].dtype)
    return sets["real"].to(dtype), sets["generated"].to(sets["real"].device, dtype)


def check_k(k: Any) -> None:
    """Raise unless ``k`` is an integer >= 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"k is {k!r}; allowed are integers from 1.")
    if k < 1:
        raise ValueError(f"k is {k}; allowed are integers from 1.")


def _as_tensor(name: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        try:
            values = torch.as_tensor(np.asarray(values))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} is {type(values).__name__}; allowed are arrays or tensors of numbers (N, d)."
            ) from error
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; allowed is (N, d), one feature vector per row.")
    if len(values) < 2:
        raise ValueError(f"{name} has {len(values)} rows; at least 2 are needed.")
    if values.is_complex():
        raise TypeError(f"{name} is {values.dtype}; allowed are real numbers.")
    values = values.detach()
    if values.dtype != torch.float64:
        values = values.float()
    finite = torch.isfinite(values).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{name} has NaN or infinity in {int((~finite).sum())} of {len(values)} rows; remove them first."
        )
    return values
