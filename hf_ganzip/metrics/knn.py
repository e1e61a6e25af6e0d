# SPDX-License-Identifier: Apache-2.0
"""Exact precision and recall, density and coverage by k nearest neighbours.

Distances come block by block from matrix products on centred features. Every decision that such a product cannot settle
(a distance within rounding of a radius) is made again from differences in float64. Ties count as inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .inputs import as_features, check_integer


_BLOCK = 2**23  # elements of a distance block
_PAIR_BUDGET = 2**20  # elements of a temporary (pairs, d)
_SPARE = 4  # neighbours beyond the k-th that are remembered, in case rounding changed their order


def pair_distances(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (P,) float64 of the pairs (a[rows], b[columns]), from differences."""
    step = max(1, _PAIR_BUDGET // a.shape[1])
    pieces = [
        (a[i].double() - b[j].double()).square_().sum(dim=1) for i, j in zip(rows.split(step), columns.split(step))
    ]
    return torch.cat(pieces)


class Balls:
    """Balls around ``points`` (N, d), each reaching to the k-th nearest other point, or the farthest if there are fewer.

    Duplicates count as neighbours, so k + 1 equal points have radius 0; so has a single point.

    Attributes:
        radii: Squared radii (N,) in the dtype of the matrix products, known up to rounding; see :meth:`exact_radii`.
    """

    def __init__(self, points: Tensor, k: int):
        self.points, self.others = points, min(k, len(points) - 1)
        # reduced matmul precision (TF32, bfloat16) is a setting for float32 only
        exact_products = torch.get_float32_matmul_precision() == "highest"
        self.dtype = points.dtype if exact_products else torch.float64
        self.offset = points.to(self.dtype).mean(dim=0)
        self.rounding = (32 + points.shape[1] ** 0.5) * torch.finfo(self.dtype).eps
        self.centred, self.norms = self._centre(points)
        self.radii, self.nearest, self.gaps = self._neighbours()
        tiny = torch.finfo(self.dtype).tiny
        self.slack = self.rounding * (4 * self.norms + 2 * self.radii) + tiny  # (N,) error of a test against ball j

    def _centre(self, points: Tensor) -> tuple[Tensor, Tensor]:
        centred = points.to(self.dtype) - self.offset
        return centred, centred.square().sum(dim=1)

    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """Approximate squared radii (N,), nearest others (N, c), and how much farther than the radius the last is (N,)."""
        count = len(self.points)
        if not self.others:
            zeros = torch.zeros_like(self.norms)
            return zeros, torch.zeros(count, 0, dtype=torch.long, device=zeros.device), zeros
        candidates = min(self.others + _SPARE, count - 1)
        distances, nearest = [], []
        for start, block in self._blocks(self.centred, self.norms):
            local = torch.arange(len(block), device=block.device)
            block[local, start + local] = torch.inf  # a point is not its own neighbour
            values, indices = block.topk(candidates, dim=1, largest=False)
            distances.append(values)
            nearest.append(indices)
        distances = torch.cat(distances) + self.norms[:, None]
        radii = distances[:, self.others - 1]
        gaps = distances[:, -1] - radii if candidates < count - 1 else torch.full_like(radii, torch.inf)
        return radii.clamp_min(0), torch.cat(nearest), gaps

    def _blocks(self, queries: Tensor, bias: Tensor) -> Iterator[tuple[int, Tensor]]:
        """First row and values of blocks (rows, N) of ``bias[j] - 2 q_i . c_j``."""
        start = 0
        for block in queries.split(max(1, _BLOCK // len(self.points))):
            yield start, torch.addmm(bias, block, self.centred.t(), alpha=-2)
            start += len(block)

    def exact_radii(self, which: Tensor) -> Tensor:
        """Squared radii (P,) float64 of the balls ``which`` (P,), from differences."""
        radii = torch.zeros(len(which), dtype=torch.float64, device=which.device)
        if not self.others:
            return radii
        nearest = self.nearest[which]
        pairs = which.repeat_interleave(nearest.shape[1]), nearest.flatten()
        radii = pair_distances(self.points, self.points, *pairs).view_as(nearest).sort(dim=1).values[:, self.others - 1]
        unsure = (self.gaps <= 2 * self.slack)[which] & (radii > 0)  # a point beyond the spare ones may be nearer
        for position in torch.nonzero(unsure).flatten().tolist():
            row = which[position].expand(len(self.points))
            distances = pair_distances(self.points, self.points, row, torch.arange(len(row), device=row.device))
            distances[which[position]] = torch.inf
            radii[position] = distances.kthvalue(self.others).values
        return radii

    def _low(self, queries: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Blocks: rows (B,), values (B, N), limits (B,). Inside only where value <= limit; surely where value <= limit
        - 2 slack(query) - 2 slack(ball)."""
        centred, squares = self._centre(queries)
        self.query_slack = self.rounding * squares
        limits = self.query_slack - squares
        for start, low in self._blocks(centred, self.norms - self.radii - self.slack):
            yield torch.arange(start, start + len(low), device=low.device), low, limits[start : start + len(low)]
