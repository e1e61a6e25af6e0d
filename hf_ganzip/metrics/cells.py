# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours within hash cells, for both sets at once.

Only cells that hold points of both sets matter. Cells of similar size are padded and go through batched matrix
products, whatever their number; large cells go through the tiles of :mod:`.knn`. As there, every decision within
rounding is made again in float64. The cost is the sum over cells of the squared number of points, at worst (all points
in one cell) that of exact nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import matmul_dtype
from .knn import Balls, Points, mutual_coverage, pair_distances, rounding_of


LARGE_CELL = 256  # points of one set in a cell, beyond which it is handled alone
_WORKSPACE = 2**22  # elements of the gathered features of a batch of cells


@dataclass(frozen=True)
class Cells:
    """Cells that both sets occupy: cell c holds the points ``real[real_starts[c] :][: real_counts[c]]``, and generated
    alike.

    ``real`` (N,) and ``generated`` (M,) are indices of points, sorted by key.
    """

    real: Tensor
    real_starts: Tensor
    real_counts: Tensor
    generated: Tensor
    generated_starts: Tensor
    generated_counts: Tensor

    @classmethod
    def of(cls, real_keys: Tensor, generated_keys: Tensor) -> Cells:
        """Group points by their keys (N,), (M,) int64."""
        real, real_unique, real_starts, real_counts = _grouped(real_keys)
        generated, generated_unique, generated_starts, generated_counts = _grouped(generated_keys)
        position = torch.searchsorted(real_unique, generated_unique).clamp_max(len(real_unique) - 1)
        found = torch.nonzero(real_unique[position] == generated_unique).flatten()
        position = position[found]
        return cls(
            real, real_starts[position], real_counts[position],
            generated, generated_starts[found], generated_counts[found],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.real_counts)

    def members(self, chosen: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Real and generated indices of each cell, of all or of the ``chosen`` ones (C,)."""
        bounds = (self.real_starts, self.real_counts, self.generated_starts, self.generated_counts)
        lists = [values.tolist() if chosen is None else values[chosen].tolist() for values in bounds]
        for start, count, other, others in zip(*lists):
            yield self.real[start : start + count], self.generated[other : other + others]

    def split_by_size(self) -> tuple[Iterator[tuple[Tensor, Tensor]], Iterator[tuple[Tensor, Tensor]]]:
        """:meth:`members` of large cells, and batches of the others as padded index tables (C, p), (C, q).

        Tables hold -1 where a cell has no more points; p and q are powers of two.
        """
        large = torch.maximum(self.real_counts, self.generated_counts) > LARGE_CELL
        return self.members(large), self._batches(torch.nonzero(~large).flatten())

    def _batches(self, cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        widths = torch.stack([_power_of_two(self.real_counts[cells]), _power_of_two(self.generated_counts[cells])], 1)
        kinds, kind = widths.unique(dim=0, return_inverse=True)
        for i, (p, q) in enumerate(kinds.tolist()):
            chosen = cells[kind == i]
            yield (
                _table(self.real, self.real_starts[chosen], self.real_counts[chosen], p),
                _table(self.generated, self.generated_starts[chosen], self.generated_counts[chosen], q),
            )


def _grouped(keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices sorted by key, and per distinct key: the key, the start of its run, its length."""
    order = torch.argsort(keys, stable=True)
    unique, counts = torch.unique_consecutive(keys[order], return_counts=True)
    return order, unique, counts.cumsum(0) - counts, counts


def _power_of_two(counts: Tensor) -> Tensor:
    """The least power of two that is at least ``counts`` (C,) int64, exactly, up to :data:`LARGE_CELL`."""
    powers = 2 ** torch.arange(LARGE_CELL.bit_length() + 1, device=counts.device)
    return powers[torch.searchsorted(powers, counts)]


def _table(order: Tensor, starts: Tensor, counts: Tensor, width: int) -> Tensor:
    columns = torch.arange(width, device=order.device)
    table = order[(starts[:, None] + columns).clamp_max(len(order) - 1)]
    return torch.where(columns < counts[:, None], table, -1)


def covered_in_cells(
    real: Tensor, generated: Tensor, real_keys: Tensor, generated_keys: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Booleans (M,) and (N,): generated point within the ball of a real point of its own cell, and the reverse
    (equations 8-10).

    The radius of a point is the distance to its k-th nearest other point of its set in the cell, the farthest if there
    are fewer, 0 if it is alone.
    """
    real_covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    generated_covered = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    alone, batches = Cells.of(real_keys, generated_keys).split_by_size()
    for index, other in alone:
        balls = Balls(Points(real, index), k), Balls(Points(generated, other), k)
        generated_covered[other], real_covered[index] = mutual_coverage(*balls)
    for index, other in batches:
        step = max(1, _WORKSPACE // ((index.shape[1] + other.shape[1]) * real.shape[1]))
        for table, other_table in zip(index.split(step), other.split(step)):
            offset = real[table[:, 0]].to(matmul_dtype(real))[:, None]  # a point of the cell: norms stay small
            mine, theirs = PaddedSet(real, table, offset, k), PaddedSet(generated, other_table, offset, k)
            distances = theirs.distances_to(mine)
            generated_covered[other_table[theirs.valid]] = _covered(theirs, mine, distances)[theirs.valid]
            real_covered[table[mine.valid]] = _covered(mine, theirs, distances.transpose(1, 2))[mine.valid]
    return generated_covered, real_covered


class PaddedSet:
    """The points of one set in a batch of cells.

    Attributes:
        valid: Booleans (C, p).
        radii: Squared radii (C, p) up to ``slack``; not meaningful where not valid.
    """

    def __init__(self, features: Tensor, table: Tensor, offset: Tensor, k: int):
        self.features, self.table, self.k, self.valid = features, table, k, table >= 0
        cells, width = table.shape
        rows = features.index_select(0, table.clamp_min(0).flatten()).view(cells, width, -1)
        self.centred = rows.to(offset.dtype).sub_(offset)
        self.norms = torch.linalg.vector_norm(self.centred, dim=2).square_()
        self.rounding = rounding_of(offset.dtype, features.shape[1])
        self.others = self.valid.sum(dim=1, keepdim=True) - 1
        self.radii = self._kth_smallest(self.distances_to(self))
        self.slack = self.rounding * (4 * self.norms + 3 * self.radii)

    def distances_to(self, other: PaddedSet) -> Tensor:
        """Squared distances (C, p, q) up to rounding."""
        product = torch.bmm(self.centred, other.centred.transpose(1, 2))
        return product.mul_(-2).add_(self.norms[:, :, None]).add_(other.norms[:, None])

    def _kth_smallest(self, distances: Tensor) -> Tensor:
        """Squared radii (..., p) from the distances (..., p, p) of every point to all points of its cell; 0 where it
        is alone.
        """
        width = distances.shape[-1]
        if width == 1:
            return torch.zeros_like(distances[..., 0])
        itself = torch.eye(width, dtype=torch.bool, device=distances.device)
        distances = distances.masked_fill(~self.valid[:, None] | itself, torch.inf)
        smallest = distances.topk(min(self.k, width), dim=-1, largest=False).values.clamp_min_(0)
        position = (self.others.clamp(1, self.k) - 1)[:, None].expand(-1, width, -1)
        return smallest.gather(-1, position).squeeze(-1).masked_fill(self.others < 1, 0)

    def exact_radii(self, cells: Tensor, columns: Tensor) -> Tensor:
        """Squared radii (P,) float64 of some points, from differences."""
        pairs, inverse = torch.stack([cells, columns], 1).unique(dim=0, return_inverse=True)
        width, step = self.table.shape[1], max(1, _WORKSPACE // self.centred[0].numel())
        radii = []
        for cell, column in zip(pairs[:, 0].split(step), pairs[:, 1].split(step)):
            members = self.features[self.table[cell].clamp_min(0)].double()  # (P, p, d)
            centres = members.gather(1, column[:, None, None].expand(-1, 1, members.shape[2]))
            distances = (members - centres).square_().sum(dim=2)
            hidden = ~self.valid[cell] | (torch.arange(width, device=cell.device) == column[:, None])
            smallest = distances.masked_fill_(hidden, torch.inf).sort(dim=1).values
            others = self.others[cell]
            radii.append(smallest.gather(1, others.clamp(1, self.k) - 1).squeeze(1).masked_fill(others[:, 0] < 1, 0))
        return torch.cat(radii)[inverse]


def _covered(queries: PaddedSet, balls: PaddedSet, distances: Tensor) -> Tensor:
    """Booleans (C, p): a point of ``queries`` lies in a ball of its cell; distances (C, p, q)."""
    slack = (balls.slack + balls.rounding * balls.norms)[:, None] + queries.rounding * queries.norms[:, :, None]
    excess = (distances - balls.radii[:, None]).masked_fill(~balls.valid[:, None], torch.inf)
    covered = (excess <= -slack).any(dim=2)
    near = (excess <= slack) & ~covered[:, :, None] & queries.valid[:, :, None]
    cell, row, column = torch.nonzero(near, as_tuple=True)
    if len(cell):
        indices = queries.table[cell, row], balls.table[cell, column]
        distances = pair_distances(Points(queries.features), Points(balls.features), *indices)
        inside = distances <= balls.exact_radii(cell, column)
        covered[cell[inside], row[inside]] = True
    return covered
