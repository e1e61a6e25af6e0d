# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours within hash cells.

Cells are small and many: the pairs within all of them are listed at once and measured from differences. Cells with more
than :data:`LARGE_CELL` reference points go through the blockwise matrix products of :mod:`.knn`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .knn import covered, neighbour_radii, pair_distances


LARGE_CELL = 32


@dataclass(frozen=True)
class Cells:
    """Points sorted by key: cell c holds ``order[starts[c] : starts[c] + counts[c]]``."""

    keys: Tensor
    order: Tensor
    starts: Tensor
    counts: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> Cells:
        """Group points by their keys (N,) int64."""
        order = torch.argsort(keys, stable=True)
        unique, counts = torch.unique_consecutive(keys[order], return_counts=True)
        return cls(unique, order, counts.cumsum(0) - counts, counts)

    def members(self, cell: int) -> Tensor:
        """Indices of the points in one cell."""
        start = int(self.starts[cell])
        return self.order[start : start + int(self.counts[cell])]


def match(reference: Cells, evaluated: Cells) -> tuple[Tensor, Tensor]:
    """Cells that both sets occupy: their positions in ``reference`` and in ``evaluated``."""
    position = torch.searchsorted(reference.keys, evaluated.keys).clamp_max(len(reference.keys) - 1)
    found = torch.nonzero(reference.keys[position] == evaluated.keys).flatten()
    return position[found], found


def covered_in_cells(
    reference: Tensor, evaluated: Tensor, reference_cells: Cells, evaluated_cells: Cells, k: int
) -> Tensor:
    """Booleans (M,): evaluated point i lies within the ball of a reference point of its own cell (equations 8-10).

    The radius of a reference point is the distance to its k-th nearest other point in the cell, the farthest if there are
    fewer, 0 if it is alone.
    """
    result = torch.zeros(len(evaluated), dtype=torch.bool, device=evaluated.device)
    in_reference, in_evaluated = match(reference_cells, evaluated_cells)
    large = reference_cells.counts[in_reference] > LARGE_CELL
    for r, e in zip(in_reference[large].tolist(), in_evaluated[large].tolist()):
        points, queries = reference[reference_cells.members(r)], evaluated_cells.members(e)
        result[queries] = covered(evaluated[queries], points, neighbour_radii(points, k))
    in_reference, in_evaluated = in_reference[~large], in_evaluated[~large]
    radii = cell_radii(reference, reference_cells, in_reference, k)
    rows, columns = cell_pairs(evaluated_cells, in_evaluated, reference_cells, in_reference)
    hits = pair_distances(evaluated, reference, rows, columns) <= radii[columns]
    result[rows[hits]] = True
    return result


def cell_radii(points: Tensor, cells: Cells, chosen: Tensor, k: int) -> Tensor:
    """Squared radii (N,) float64 of the points in the ``chosen`` cells; 0 elsewhere."""
    radii = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    rows, columns = cell_pairs(cells, chosen, cells, chosen)
    other = rows != columns
    rows, columns = rows[other], columns[other]
    if not len(rows):
        return radii
    distances = pair_distances(points, points, rows, columns)
    by_distance = torch.argsort(distances, stable=True)
    by_row = by_distance[torch.argsort(rows[by_distance], stable=True)]  # rows together, nearest first
    unique, counts = torch.unique_consecutive(rows[by_row], return_counts=True)
    kth = counts.cumsum(0) - counts + counts.clamp_max(k) - 1
    radii[unique] = distances[by_row][kth]
    return radii


def cell_pairs(first: Cells, in_first: Tensor, second: Cells, in_second: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (point of cell ``in_first[i]``, point of cell ``in_second[i]``) over i, as two index tensors (P,)."""
    rows_per_cell, columns_per_cell = first.counts[in_first], second.counts[in_second]
    pairs_per_cell = rows_per_cell * columns_per_cell
    cell = torch.repeat_interleave(pairs_per_cell)
    within = torch.arange(len(cell), device=cell.device) - (pairs_per_cell.cumsum(0) - pairs_per_cell)[cell]
    columns = columns_per_cell[cell]
    rows = first.order[first.starts[in_first][cell] + within // columns]
    return rows, second.order[second.starts[in_second][cell] + within % columns]
