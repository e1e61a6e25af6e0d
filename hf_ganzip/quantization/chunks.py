# SPDX-License-Identifier: Apache-2.0
"""Large tensors a part at a time: what is computed of a part stays in a core's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


CHUNK = 2**17  # elements


def row_chunks(rows: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """Views of ``rows`` (R, N), some rows at a time: about ``size`` elements, one row at least."""
    yield from rows.split(max(1, size // max(1, rows.shape[1])))


def by_rows(function: Callable[..., Tensor], rows: Tensor, *others: Tensor) -> Tensor:
    """``function`` of some of the rows (R, N) and of the same of ``others`` (R, ...) at a time, put together again."""
    count = max(1, CHUNK // max(1, rows.shape[1]))
    return torch.cat([function(*parts) for parts in zip(*(each.split(count) for each in (rows, *others)))])
