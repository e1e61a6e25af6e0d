# SPDX-License-Identifier: Apache-2.0
"""Large tensors a part at a time: what is computed of a part stays in a core's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


CHUNK = 2**18  # elements


def row_chunks(rows: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """``rows`` (R, N), some at a time: about ``size`` elements, one row at least; float32 or float64.

    What had to be cast is written into the memory of the part before it: it holds until the next is asked for.
    """
    dtype, memory = float_dtype(rows), None
    for part in rows.split(max(1, size // max(1, rows.shape[1]))):
        if part.dtype != dtype:
            memory = torch.empty_like(part, dtype=dtype) if memory is None else memory
            part = memory[: len(part)].copy_(part)
        yield part


def float_dtype(tensor: Tensor) -> torch.dtype:
    """What is computed with: float64 for float64, float32 for all others."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def as_float(tensor: Tensor) -> Tensor:
    """``tensor`` in its :func:`float_dtype`."""
    return tensor.to(float_dtype(tensor))


def by_rows(function: Callable[..., Tensor], rows: Tensor, *others: Tensor) -> Tensor:
    """``function`` of some of the rows (R, N), as floats, and of ``others`` (R, ...), at a time; put together again."""
    count = max(1, CHUNK // max(1, rows.shape[1]))
    parts = zip(row_chunks(rows), *(each.split(count) for each in others))
    return torch.cat([function(*each) for each in parts])


def largest_of_rows(rows: Tensor) -> Tensor:
    """Largest magnitude of each row (R, N): (R, 1)."""
    return by_rows(lambda part: part.abs().amax(dim=1, keepdim=True), rows)


def folded_peaks(rows: Tensor, times: int) -> Tensor:
    """Magnitudes of the rows (R, N) folded in half so many times, of what comes together the larger: (R, M), the
    largest of up to ``2**times`` weights each.
    """
    count, halves = max(1, CHUNK // max(1, rows.shape[1])), rows.dtype in (torch.float16, torch.bfloat16)
    found, memory = [], None
    for part in rows.split(count):
        part = part.view(torch.int16) if halves else as_float(part)
        memory = torch.empty_like(part) if memory is None else memory
        folded = memory[: len(part)]
        # Without their sign, the bits of half-precision numbers are ordered as the numbers are.
        torch.bitwise_and(part, 0x7FFF, out=folded) if halves else torch.abs(part, out=folded)
        for _ in range(times):
            width = folded.shape[1]
            kept = -(-width // 2)
            torch.maximum(folded[:, : width - kept], folded[:, kept:], out=folded[:, : width - kept])
            folded = folded[:, :kept]
        found.append(folded.clone(memory_format=torch.contiguous_format))
    largest = torch.cat(found)
    return as_float(largest.view(rows.dtype)) if halves else largest


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor is free of NaN and infinity: its largest magnitude tells, much faster than a look at each."""
    return all(bool(torch.isfinite(part.abs().max())) for part in tensor.reshape(-1).split(CHUNK))
