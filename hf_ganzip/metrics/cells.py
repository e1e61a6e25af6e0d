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
    """Cells that both sets occupy.

    ``real`` (N,) and ``generated`` (M,) are indices of points, sorted by key: cell c holds the ``real_counts[c]`` real
    points from ``real[real_starts[c]]`` on, and generated alike.
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
        for real_start, real_count, start, count in zip(*lists):
            yield self.real[real_start : real_start + real_count], self.generated[start : start + count]

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
                _padded(self.real, self.real_starts[chosen], self.real_counts[chosen], p),
                _padded(self.generated, self.generated_starts[chosen], self.generated_counts[chosen], q),
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


def _padded(order: Tensor, starts: Tensor, counts: Tensor, width: int) -> Tensor:
    """Table (C, width) of the indices of each cell, -1 behind them."""
    columns = torch.arange(width, device=order.device)
    table = order[(starts[:, None] + columns).clamp_max(len(order) - 1)]
    return torch.where(columns < counts[:, None], table, -1)


def covered_in_cells(
    real: Tensor, generated: Tensor, real_keys: Tensor, generated_keys: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Booleans (M,) and (N,): generated point within the ball of a real point of its cell, and the reverse.

    Equations 8 to 10 of Mordido et al. The radius of a point is the distance to its k-th nearest other point of its set
    in the cell, the farthest if there are fewer, 0 if it is alone.
    """
    real_covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    generated_covered = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    large, batches = Cells.of(real_keys, generated_keys).split_by_size()
    for real_index, generated_index in large:
        balls = Balls(Points(real, real_index), k), Balls(Points(generated, generated_index), k)
        generated_covered[generated_index], real_covered[real_index] = mutual_coverage(*balls)
    for tables in batches:
        step = max(1, _WORKSPACE // (sum(table.shape[1] for table in tables) * real.shape[1]))
        for real_table, generated_table in zip(*(table.split(step) for table in tables)):
            offset = real[real_table[:, 0]].to(matmul_dtype(real))[:, None]  # a point of the cell: norms stay small
            real_set = PaddedSet(real, real_table, offset, k)
            generated_set = PaddedSet(generated, generated_table, offset, k)
            distances = generated_set.distances_to(real_set)
            generated_set.write(generated_covered, _covered(generated_set, real_set, distances))
            real_set.write(real_covered, _covered(real_set, generated_set, distances.transpose(1, 2)))
    return generated_covered, real_covered


class PaddedSet:
    """The points of one set in a batch of cells, minus an ``offset`` (C, 1, d) of each cell.

    Attributes:
        table: Indices (C, p) into ``features`` (N, d), -1 where a cell has no more points.
        valid: Booleans (C, p): where there is a point.
        others: Number (C, 1) of other points that a point has in its cell.
        radii: Squared radii (C, p) up to ``slack``; not meaningful where not valid.
    """

    def __init__(self, features: Tensor, table: Tensor, offset: Tensor, k: int):
        self.features, self.table, self.k = features, table, k
        self.valid = table >= 0
        cells, width = table.shape
        rows = features.index_select(0, table.clamp_min(0).flatten()).view(cells, width, -1)
        self.centred = rows.to(offset.dtype).sub_(offset)
        self.norms = torch.linalg.vector_norm(self.centred, dim=2).square_()
        self.rounding = rounding_of(offset.dtype, features.shape[1])
        self.others = self.valid.sum(dim=1, keepdim=True) - 1
        hidden = ~self.valid[:, None] | torch.eye(width, dtype=torch.bool, device=table.device)
        distances = self.distances_to(self).masked_fill_(hidden, torch.inf)
        self.radii = _kth_smallest(distances, self.others[:, None], k).clamp_min_(0)
        self.slack = self.rounding * (4 * self.norms + 3 * self.radii)

    def distances_to(self, other: PaddedSet) -> Tensor:
        """Squared distances (C, p, q) up to rounding."""
        product = torch.bmm(self.centred, other.centred.transpose(1, 2))
        return product.mul_(-2).add_(self.norms[:, :, None]).add_(other.norms[:, None])

    def write(self, result: Tensor, values: Tensor) -> None:
        """Put the values (C, p) of the points into ``result`` (N,)."""
        result[self.table[self.valid]] = values[self.valid]

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
            radii.append(_kth_smallest(distances.masked_fill_(hidden, torch.inf), self.others[cell], self.k))
        return torch.cat(radii)[inverse]


def _kth_smallest(distances: Tensor, others: Tensor, k: int) -> Tensor:
    """The k-th smallest (...) of the distances (..., p) to ``others`` (..., 1) points; the rest are infinite.

    The largest finite one if there are fewer, 0 if there are none.
    """
    smallest = distances.topk(min(k, distances.shape[-1]), dim=-1, largest=False).values
    position = (others.clamp(1, k) - 1).expand(*distances.shape[:-1], 1)
    return smallest.gather(-1, position).squeeze(-1).masked_fill(others.squeeze(-1) < 1, 0)


def _covered(queries: PaddedSet, balls: PaddedSet, distances: Tensor) -> Tensor:
    """Booleans (C, p): a point of ``queries`` lies in a ball of its cell; distances (C, p, q)."""
    slack = (balls.slack + balls.rounding * balls.norms)[:, None] + queries.rounding * queries.norms[:, :, None]
    excess = (distances - balls.radii[:, None]).masked_fill(~balls.valid[:, None], torch.inf)
    covered = (excess <= -slack).any(dim=2)
    near = (excess <= slack) & ~covered[:, :, None] & queries.valid[:, :, None]
    cell, row, column = torch.nonzero(near, as_tuple=True)
    if len(cell):
        indices = queries.table[cell, row], balls.table[cell, column]
        exact = pair_distances(Points(queries.features), Points(balls.features), *indices)
        inside = exact <= balls.exact_radii(cell, column)
        covered[cell[inside], row[inside]] = True
    return covered
