# SPDX-License-Identifier: Apache-2.0
"""Exact precision and recall, density and coverage by k nearest neighbours.

Distances come block by block from matrix products on centred features; every decision that such a product cannot settle
(a distance within rounding of a radius) is made again from the differences in float64. Ties count as inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .inputs import as_features, check_k


_BLOCK = 1024  # rows of a distance block
_PAIR_BUDGET = 2**22  # elements of a temporary (pairs, d)
_SPARE = 4  # candidates beyond k that are measured exactly


def pair_distances(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (P,) float64 of the pairs (a[rows], b[columns]), from differences."""
    step = max(1, _PAIR_BUDGET // a.shape[1])
    pieces = [
        (a[i].double() - b[j].double()).square_().sum(dim=1) for i, j in zip(rows.split(step), columns.split(step))
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64, device=a.device)


def neighbour_radii(points: Tensor, k: int) -> Tensor:
    """Squared distance (N,) float64 of each point (N, d) to its k-th nearest other point, the farthest if there are fewer.

    Duplicates count as neighbours, so k + 1 equal points have radius 0; so does a single point.
    """
    count = len(points)
    others = min(k, count - 1)
    if not others:
        return torch.zeros(count, dtype=torch.float64, device=points.device)
    candidates = min(others + _SPARE, count - 1)
    centred = points - points.mean(dim=0)
    norms = centred.square().sum(dim=1)
    radii = torch.empty(count, dtype=torch.float64, device=points.device)
    for start in range(0, count, _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, count), device=points.device)
        distances = norms - 2 * (centred[rows] @ centred.t())
        distances[torch.arange(len(rows)), rows] = torch.inf  # a point is not its own neighbour
        nearest = distances.topk(candidates, dim=1, largest=False).indices
        exact = pair_distances(points, points, rows.repeat_interleave(candidates), nearest.flatten())
        radii[rows] = exact.view(len(rows), candidates).sort(dim=1).values[:, others - 1]
    return radii


def inside_balls(queries: Tensor, centres: Tensor, radii: Tensor) -> Iterator[Tensor]:
    """Blocks (rows of ``queries``, N) of booleans: query i lies within the ball of centre j, the boundary included.

    Args:
        queries: (M, d).
        centres: (N, d).
        radii: Squared radii (N,) float64.
    """
    offset = centres.mean(dim=0)
    shifted, moved = centres - offset, queries - offset
    norms, squares = shifted.square().sum(dim=1), moved.square().sum(dim=1)
    bias = norms - radii.to(norms.dtype)
    rounding = 32 * torch.finfo(queries.dtype).eps
    tolerance = rounding * (squares + norms.max() + radii.max().to(norms.dtype))
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        excess = torch.addmm(bias, moved[part], shifted.t(), alpha=-2) + squares[part, None]
        inside = excess <= 0
        rows, columns = torch.nonzero(excess.abs() <= tolerance[part, None], as_tuple=True)
        if len(rows):
            inside[rows, columns] = pair_distances(queries, centres, rows + start, columns) <= radii[columns]
        yield inside


def covered(queries: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Booleans (M,): query i lies within at least one ball."""
    return torch.cat([inside.any(dim=1) for inside in inside_balls(queries, centres, radii)])


def knn_precision_recall(*, real: Any, generated: Any, k: int = 3) -> dict[str, float]:
    """Improved precision and recall.

    Precision is the share of generated samples within the ball of at least one real sample, whose radius is the distance to
    its k-th nearest other real sample; recall exchanges the roles.

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
        Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models" (NeurIPS 2019), equation 1.
    """
    check_k(k)
    real, generated = as_features(real=real, generated=generated)
    precision = covered(generated, real, neighbour_radii(real, k))
    recall = covered(real, generated, neighbour_radii(generated, k))
    return {"precision": float(precision.double().mean()), "recall": float(recall.double().mean())}


def density_coverage(*, real: Any, generated: Any, k: int = 5) -> dict[str, float]:
    """Density and coverage.

    Density counts in how many real balls a generated sample lies, over k; coverage is the share of real balls that hold a
    generated sample. A sample on the boundary counts as inside (prdc, which excludes it, differs on ties).

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
    check_k(k)
    real, generated = as_features(real=real, generated=generated)
    total, hit = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for inside in inside_balls(generated, real, neighbour_radii(real, k)):
        total += int(inside.sum())
        hit |= inside.any(dim=0)
    return {"density": total / (k * len(generated)), "coverage": float(hit.double().mean())}
