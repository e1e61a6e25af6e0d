# SPDX-License-Identifier: Apache-2.0
"""Large tensors a part at a time: what is computed of a part stays in a core's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


CHUNK = 2**18  # elements


def row_chunks(rows: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """``rows`` (R, N), some at a time: about ``size`` elements, one row at least; float32 or float64."""
    yield from map(as_float, rows.split(max(1, size // max(1, rows.shape[1]))))


def float_dtype(tensor: Tensor) -> torch.dtype:
    """What is computed with: float64 for float64, float32 for all others."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def as_float(tensor: Tensor) -> Tensor:
    """``tensor`` in its :func:`float_dtype`."""
    return tensor.to(float_dtype(tensor))


def by_rows(function: Callable[..., Tensor], rows: Tensor, *others: Tensor) -> Tensor:
    """``function`` of some of the rows (R, N), as floats, and of the same of ``others`` (R, ...) at a time, put together again."""
    count = max(1, CHUNK // max(1, rows.shape[1]))
    parts = zip(row_chunks(rows), *(each.split(count) for each in others))
    return torch.cat([function(*each) for each in parts])


def largest_of_rows(rows: Tensor) -> Tensor:
    """Largest magnitude of each row (R, N): (R, 1)."""
    return by_rows(lambda part: part.abs().amax(dim=1, keepdim=True), rows)


def largest_of_blocks(rows: Tensor, size: int) -> Tensor:
    """Largest magnitudes of blocks of ``size`` weights of each row (R, N), the last of which may be smaller: (R, ceil(N / size))."""
    whole = rows.shape[1] // size * size

    def largest(part: Tensor) -> Tensor:
        magnitudes = part.abs()
        found = magnitudes[:, :whole].reshape(len(part), -1, size).amax(dim=2)
        return (
            torch.cat([found, magnitudes[:, whole:].amax(dim=1, keepdim=True)], dim=1)
            if whole < part.shape[1]
            else found
        )

    return by_rows(largest, rows)


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: its largest magnitude tells, several times as fast as a look at each."""
    return all(bool(torch.isfinite(part.abs().max())) for part in tensor.reshape(-1).split(CHUNK))
