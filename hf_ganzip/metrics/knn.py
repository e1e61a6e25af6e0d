# SPDX-License-Identifier: Apache-2.0
"""Exact precision and recall, density and coverage by k nearest neighbours.

Distances come tile by tile from matrix products on centred features; a set with itself takes half of the tiles, and one
tile of both sets serves precision and recall. Every decision that a product cannot settle (a distance within rounding
of a radius) is made again from differences in float64. Ties count as inside. Memory: a few tiles besides the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .inputs import as_features, check_integer, matmul_dtype


TILE = 2048  # rows and columns of a distance tile
_PAIR_BUDGET = 2**20  # elements of a temporary (pairs, d)
_SPARE = 4  # neighbours beyond the k-th that are remembered, in case rounding changed their order


def rounding_of(dtype: torch.dtype, dim: int) -> float:
    """Error of a squared distance from a matrix product, relative to the sum of the two squared norms."""
    return (32 + dim**0.5) * torch.finfo(dtype).eps


class Points:
    """Rows ``index`` of ``features`` (N, d), read in centred blocks; nothing is copied as a whole."""

    def __init__(self, features: Tensor, index: Tensor | None = None):
        self.features, self.index = features, index
        self.dtype = matmul_dtype(features)

    def __len__(self) -> int:
        return len(self.features if self.index is None else self.index)

    @cached_property
    def offset(self) -> Tensor:
        """Mean (d,)."""
        total: Any = sum(self.rows(part).to(self.dtype).sum(dim=0) for part in self.parts())
        return total / len(self)

    def parts(self) -> list[slice]:
        """Row ranges of the tiles."""
        return [slice(start, min(start + TILE, len(self))) for start in range(0, len(self), TILE)]

    def rows(self, which: slice | Tensor) -> Tensor:
        """Uncentred features of some points."""
        return self.features[which] if self.index is None else self.features[self.index[which]]

    def block(self, part: slice, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Points minus ``offset`` (n, d) and their squared norms (n,)."""
        centred = self.rows(part).to(self.dtype) - offset
        return centred, torch.linalg.vector_norm(centred, dim=1).square_()


def pair_distances(a: Points, b: Points, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (P,) float64 of points ``rows[p]`` of a and ``columns[p]`` of b, from differences."""
    step = max(1, _PAIR_BUDGET // a.features.shape[1])
    pieces = [
        (a.rows(i).double() - b.rows(j).double()).square_().sum(dim=1)
        for i, j in zip(rows.split(step), columns.split(step))
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64, device=a.features.device)


def distance_tile(a: Tensor, a_norms: Tensor, b: Tensor, b_norms: Tensor) -> Tensor:
    """Squared distances (n, m) of centred blocks up to rounding."""
    return torch.addmm(b_norms, a, b.t(), alpha=-2).add_(a_norms[:, None])


class Balls:
    """Balls around points, each reaching to the k-th nearest other point, or the farthest if there are fewer.

    Duplicates count as neighbours, so k + 1 equal points have radius 0; so has a single point.

    Attributes:
        radii: Squared radii (N,), known up to ``slack`` (N,); :meth:`exact_radii` gives them in float64.
    """

    def __init__(self, points: Points, k: int):
        self.points, self.others = points, min(k, len(points) - 1)
        self.rounding = rounding_of(points.dtype, points.features.shape[1])
        self._exact = torch.full((len(points),), torch.nan, dtype=torch.float64, device=points.features.device)
        if self.others:
            distances, self.nearest = self._neighbours(min(self.others + _SPARE, len(points) - 1))
            self.radii = distances[:, self.others - 1].clamp_min(0)
            self.slack = self.rounding * (4 * self.norms + 3 * self.radii) + torch.finfo(points.dtype).tiny
            known = self.nearest.shape[1] == len(points) - 1
            self.gap = torch.full_like(self.radii, torch.inf) if known else distances[:, -1] - self.radii
        else:
            self.radii, self.slack = self._exact.new_zeros(2, len(points), dtype=points.dtype)
            self._exact.zero_()

    def _neighbours(self, candidates: int) -> tuple[Tensor, Tensor]:
        """Approximate squared distances and indices (N, c) of the nearest others; sets ``norms`` (N,)."""
        points, device = self.points, self._exact.device
        distances = torch.full((len(points), candidates), torch.inf, dtype=points.dtype, device=device)
        nearest = torch.zeros(len(points), candidates, dtype=torch.int64, device=device)
        self.norms = torch.empty(len(points), dtype=points.dtype, device=device)

        def merge(part: slice, tile: Tensor, first: int) -> None:
            values, indices = tile.topk(min(candidates, tile.shape[1]), dim=1, largest=False)
            values, indices = torch.cat([distances[part], values], 1), torch.cat([nearest[part], indices + first], 1)
            distances[part], order = values.topk(candidates, dim=1, largest=False)
            nearest[part] = indices.gather(1, order)

        for i, part in enumerate(points.parts()):
            block, norms = points.block(part, points.offset)
            self.norms[part] = norms
            merge(part, distance_tile(block, norms, block, norms).fill_diagonal_(torch.inf), part.start)
            for other in points.parts()[i + 1 :]:
                tile = distance_tile(block, norms, *points.block(other, points.offset))
                merge(part, tile, other.start)
                merge(other, tile.t().contiguous(), part.start)
        return distances, nearest

    def exact_radii(self, which: Tensor) -> Tensor:
        """Squared radii (P,) float64 of the balls ``which`` (P,), from differences; each is measured once."""
        unknown = which[self._exact[which].isnan()].unique()
        if len(unknown):
            pairs = unknown.repeat_interleave(self.nearest.shape[1]), self.nearest[unknown].flatten()
            distances = pair_distances(self.points, self.points, *pairs).view(len(unknown), -1).sort(dim=1).values
            self._exact[unknown] = distances[:, self.others - 1]
            for ball in unknown[self.gap[unknown] <= 2 * self.slack[unknown]].tolist():
                if self._exact[ball] > 0:  # a point beyond the remembered ones may be nearer
                    every = torch.arange(len(self.points), device=unknown.device)
                    distances = pair_distances(self.points, self.points, every.new_full(every.shape, ball), every)
                    distances[ball] = torch.inf
                    self._exact[ball] = distances.kthvalue(self.others).values
        return self._exact[which]

    def contain(self, queries: Points, rows: Tensor, balls: Tensor) -> Tensor:
        """Booleans (P,): point ``rows[p]`` of ``queries`` lies in ball ``balls[p]``, decided in float64."""
        return pair_distances(queries, self.points, rows, balls) <= self.exact_radii(balls)


class Tile:
    """Squared distances of a block of queries to the centres of a block of balls, judged against the radii.

    Args:
        distances: (n, m) up to rounding.
        query_norms: Squared norms (n,) from which the rounding follows.
        centre_norms: The same of the centres (m,).
        balls: Balls, of which ``columns`` are meant.
    """

    def __init__(self, distances: Tensor, query_norms: Tensor, centre_norms: Tensor, balls: Balls, columns: slice):
        slack = balls.slack[columns] + balls.rounding * centre_norms
        self.excess = distances - (balls.radii[columns] + slack)  # inside only if <= tolerance
        self.double_slack = 2 * slack
        self.tolerance = balls.rounding * query_norms

    def rows_to_settle(self, covered: Tensor) -> tuple[Tensor, Tensor]:
        """Set ``covered`` (n,) where a query is surely inside a ball; the open pairs (row, column) of other rows."""
        nearest = self.excess.amin(dim=1)
        covered |= nearest <= -(self.tolerance + self.double_slack.max())
        rows = torch.nonzero(~covered & (nearest <= self.tolerance)).flatten()
        excess, tolerance = self.excess[rows], self.tolerance[rows, None]
        sure = (excess + self.double_slack <= -tolerance).any(dim=1)
        covered[rows[sure]] = True
        open_rows, open_columns = torch.nonzero(excess[~sure] <= tolerance[~sure], as_tuple=True)
        return rows[~sure][open_rows], open_columns

    def inside(self) -> tuple[Tensor, Tensor, Tensor]:
        """Booleans (n, m) of the sure pairs, and the open pairs (row, column)."""
        sure = self.excess + self.double_slack <= -self.tolerance[:, None]
        rows, columns = torch.nonzero((self.excess <= self.tolerance[:, None]) & ~sure, as_tuple=True)
        return sure, rows, columns


def tiles(queries: Points, centres: Points) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Row range, column range, squared distances and squared norms of both, for all tiles."""
    for part in queries.parts():
        block, norms = queries.block(part, centres.offset)
        for other in centres.parts():
            centred, other_norms = centres.block(other, centres.offset)
            yield part, other, distance_tile(block, norms, centred, other_norms), norms, other_norms


def settle(covered: Tensor, queries: Points, balls: Balls, rows: Tensor, columns: Tensor) -> None:
    """Set ``covered`` (n,) for the rows of the open pairs that lie in their ball; a row is left once it is covered."""
    share = 1
    while len(rows):
        starts = torch.cat([rows.new_ones(1), (rows[1:] != rows[:-1]).long()]).nonzero().flatten()
        position = torch.arange(len(rows), device=rows.device)
        rank = position - starts[torch.searchsorted(starts, position, right=True) - 1]
        now = rank < share  # few candidates of every row at first: one that is inside settles it
        inside = balls.contain(queries, rows[now], columns[now])
        covered[rows[now][inside]] = True
        rest = ~now & ~covered[rows]
        rows, columns, share = rows[rest], columns[rest], share * 4


def mutual_coverage(real: Balls, generated: Balls) -> tuple[Tensor, Tensor]:
    """Which generated points (M,) lie in a real ball, and which real points (N,) in a generated ball: booleans."""
    device = real.radii.device
    generated_covered = torch.zeros(len(generated.points), dtype=torch.bool, device=device)
    real_covered = torch.zeros(len(real.points), dtype=torch.bool, device=device)
    for rows, columns, distances, row_norms, column_norms in tiles(generated.points, real.points):
        for part, other, view, norms, other_norms, points, balls, covered in (
            (rows, columns, distances, row_norms, column_norms, generated.points, real, generated_covered),
            (columns, rows, distances.t(), column_norms, row_norms, real.points, generated, real_covered),
        ):
            found = covered[part]
            open_rows, open_columns = Tile(view, norms, other_norms, balls, other).rows_to_settle(found)
            settle(covered, points, balls, open_rows + part.start, open_columns + other.start)
    return generated_covered, real_covered


def counts(queries: Points, balls: Balls) -> tuple[Tensor, Tensor]:
    """In how many balls every query lies (M,), and how many queries every ball holds (N,), float64."""
    of_queries, of_balls = (
        torch.zeros(len(each), dtype=torch.float64, device=balls.radii.device) for each in (queries, balls.points)
    )
    for rows, columns, distances, row_norms, column_norms in tiles(queries, balls.points):
        sure, open_rows, open_columns = Tile(distances, row_norms, column_norms, balls, columns).inside()
        of_queries[rows] += sure.sum(dim=1, dtype=torch.int32)  # six times as fast as int64
        of_balls[columns] += sure.sum(dim=0, dtype=torch.int32)
        inside = balls.contain(queries, open_rows + rows.start, open_columns + columns.start)
        one = of_queries.new_ones(int(inside.sum()))
        of_queries.index_add_(0, open_rows[inside] + rows.start, one)
        of_balls.index_add_(0, open_columns[inside] + columns.start, one)
    return of_queries, of_balls


def knn_precision_recall(*, real: Any, generated: Any, k: int = 3) -> dict[str, float]:
    """Improved precision and recall.

    Precision is the share of generated samples within the ball of at least one real sample, whose radius is the
    distance to its k-th nearest other real sample; recall exchanges the roles.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1.

    Returns:
        ``precision`` and ``recall`` in [0, 1].

    Raises:
        TypeError: ``k`` is no integer or a set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, or the dimensions differ; ``k`` < 1.

    Example:
        >>> real = [[0.0, 0], [1, 0], [0, 1], [9, 9]]
        >>> knn_precision_recall(real=real, generated=[[0.5, 0.5], [0.1, 0.1]], k=1)
        {'precision': 1.0, 'recall': 0.25}

    Source:
        Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models" (NeurIPS 2019),
        equation 1.
    """
    return knn_to(real, k)(generated)


def knn_to(real: Any, k: int = 3) -> Callable[[Any], dict[str, float]]:
    """:func:`knn_precision_recall` with one real set, whose balls are measured once, as a function of ``generated``."""
    check_integer("k", k, 1)
    balls: dict[torch.dtype, Balls] = {}

    def figures(generated: Any) -> dict[str, float]:
        rows, others = as_features(real=real, generated=generated)
        if rows.dtype not in balls:
            balls[rows.dtype] = Balls(Points(rows), k)
        precision, recall = mutual_coverage(balls[rows.dtype], Balls(Points(others), k))
        return {"precision": float(precision.double().mean()), "recall": float(recall.double().mean())}

    return figures


def density_coverage(*, real: Any, generated: Any, k: int = 5) -> dict[str, float]:
    """Density and coverage.

    Density counts in how many real balls a generated sample lies, over k; coverage is the share of real balls that
    hold a generated sample. A sample on the boundary counts as inside (prdc, which excludes it, differs on ties).

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius of a real ball, >= 1.

    Returns:
        ``density`` >= 0 (about 1 for equal distributions, can exceed 1) and ``coverage`` in [0, 1].

    Raises:
        TypeError: ``k`` is no integer or a set is no array.
        ValueError: As in :func:`knn_precision_recall`.

    Example:
        >>> real = [[0.0, 0], [1, 0], [0, 1], [9, 9]]
        >>> density_coverage(real=real, generated=[[0.5, 0.5], [0.1, 0.1]], k=1)
        {'density': 3.5, 'coverage': 1.0}

    Source:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (ICML 2020), equations 3 and 4.
    """
    check_integer("k", k, 1)
    real, generated = as_features(real=real, generated=generated)
    of_samples, of_balls = counts(Points(generated), Balls(Points(real), k))
    density = float(of_samples.sum()) / (k * len(generated))
    return {"density": density, "coverage": float((of_balls > 0).double().mean())}
