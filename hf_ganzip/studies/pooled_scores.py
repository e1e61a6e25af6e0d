# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of many subsets of two pools of samples, from distances that are computed once.

Studies that exchange a few samples of a set at a time would compute nearly the same products again and again. The
values are those of :mod:`hf_ganzip.metrics`, which also settles in float64 what float32 cannot: pairs whose distance
is within rounding of a radius.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics.hyperplanes import draw_hyperplanes, hash_keys
from ..metrics.knn import Points, distance_tile


METHODS = ("LSH", "LSH+KNN", "LSH+KNN, centred", "KNN", "KNN, pruned", "density, coverage")
_K, _K_DENSITY = 3, 5


@dataclass(frozen=True)
class Balls:
    """Squared radii (n,) of samples ``rows`` (n,) of a pool.

    ``knn`` by the third neighbour, ``density`` by the fifth, ``pruned`` the former, -1 where above the median,
    ``cells`` hyperplanes -> by the third neighbour in the cell of every draw (draws, n).
    """

    rows: Tensor
    knn: Tensor
    density: Tensor
    pruned: Tensor
    cells: Mapping[str, Tensor]


class Pool:
    """Samples from which sets are taken.

    Args:
        features: float32 (P, d).
        keys: Hyperplanes -> hash keys (P, draws).
    """

    def __init__(self, features: Tensor, keys: Mapping[str, Tensor]):
        self.features, self.keys = features, keys
        self.distances = squared_distances(features, features).fill_diagonal_(torch.inf)

    def balls(self, rows: Tensor) -> Balls:
        """Of the set with the samples ``rows`` (n,), n > 5."""
        distances = self.distances[rows][:, rows]
        nearest = distances.topk(_K_DENSITY, largest=False).values
        knn = nearest[:, _K - 1]
        pruned = torch.where(knn <= knn.quantile(0.5), knn, -1)
        cells = {
            name: torch.stack([_radii_in_cells(distances, draw) for draw in keys[rows].unbind(1)])
            for name, keys in self.keys.items()
        }
        return Balls(rows, knn, nearest[:, _K_DENSITY - 1], pruned, cells)


class PooledScores:
    """Scores of sets out of a real and a generated pool.

    Args:
        real: Pool.
        generated: Pool with keys of the same hyperplanes.
    """

    def __init__(self, real: Pool, generated: Pool):
        self.real, self.generated = real, generated
        self.distances = squared_distances(real.features, generated.features)

    def __call__(self, real: Balls, generated: Balls) -> dict[str, list[float]]:
        """Method -> [precision, recall] in the order of ``METHODS``; for the last, density and coverage."""
        distances = self.distances[real.rows][:, generated.rows]
        found: dict[str, list[float]] = {}
        for name, label in (("plain", ""), ("centred", ", centred")):
            keys = self.real.keys[name][real.rows], self.generated.keys[name][generated.rows]
            hits, covered = [], []
            for draw, radii in enumerate(zip(real.cells[name], generated.cells[name])):
                same = keys[0][:, draw, None] == keys[1][:, draw]
                hits.append((_share(same.any(dim=0)), _share(same.any(dim=1))))
                covered.append(_covered(distances, *radii, same))
            for method, values in (("LSH", hits), ("LSH+KNN", covered)):
                found[method + label] = [sum(side) / len(side) for side in zip(*values)]
        found["KNN"] = list(_covered(distances, real.knn, generated.knn))
        found["KNN, pruned"] = list(_covered(distances, real.pruned, generated.pruned))
        inside = distances <= real.density[:, None]
        found["density, coverage"] = [float(inside.sum()) / (_K_DENSITY * inside.shape[1]), _share(inside.any(dim=1))]
        return {method: found[method] for method in METHODS}


def keys_of(features: Tensor, center: Tensor, *, num_hyperplanes: int, draws: int, seed: int) -> dict[str, Tensor]:
    """Keys (P, draws) of features (P, d) under "plain" hyperplanes, or moved to ``center`` (d,), "centred"."""
    dim = features.shape[1]
    return {
        name: hash_keys(features, *draw_hyperplanes(dim, num_hyperplanes, draws, seed, middle))
        for name, middle in (("plain", None), ("centred", center))
    }


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (P, Q) of features (P, d) and (Q, d), float32, not below 0."""
    points, others = Points(a), Points(b)
    blocks = [each.block(slice(None), points.offset) for each in (points, others)]
    return distance_tile(*blocks[0], *blocks[1]).clamp_min_(0)


def _radii_in_cells(distances: Tensor, keys: Tensor) -> Tensor:
    """Distance (n,) to the third other sample with the same key, the farthest of fewer, 0 where there is none."""
    same = keys[:, None] == keys
    nearest = distances.masked_fill(~same, torch.inf).topk(_K, largest=False).values
    others = same.sum(dim=1) - 1
    return nearest.gather(1, (others.clamp(1, _K) - 1)[:, None]).squeeze(1).masked_fill(others < 1, 0)


def _covered(distances: Tensor, real: Tensor, generated: Tensor, same: Tensor | None = None) -> tuple[float, float]:
    """Shares of generated samples in real balls and of real samples in generated balls, of the ``same`` cell only."""
    by_real, by_generated = distances <= real[:, None], distances <= generated
    if same is not None:
        by_real &= same
        by_generated &= same
    return _share(by_real.any(dim=0)), _share(by_generated.any(dim=1))


def _share(values: Tensor) -> float:
    return float(values.double().mean())
