# SPDX-License-Identifier: Apache-2.0
"""Rows of all processes, for metrics that are merged over torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def num_processes() -> int:
    """World size of torch.distributed, 1 where it is not initialized."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (n, ...) of every process in the order of ranks; n may differ, the rest of the shape may not.

    Every process must call this. Without torch.distributed the rows themselves are returned.
    """
    if num_processes() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(num_processes())]
    torch.distributed.all_gather(counts, count)
    padded = rows.new_zeros(int(torch.stack(counts).max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    pieces = [torch.zeros_like(padded) for _ in counts]
    torch.distributed.all_gather(pieces, padded)
    return torch.cat([piece[: int(n)] for piece, n in zip(pieces, counts)])
