# SPDX-License-Identifier: Apache-2.0
"""Probabilistic precision and recall: how likely a sample lies in a support that is itself uncertain."""

from __future__ import annotations

import math
from typing import Any

import torch

from .inputs import as_features, check_integer
from .knn import Balls, Points, pair_distances, tiles


_NEAR = 1e-6  # of the squared norms: nearer pairs are measured from differences


def probabilistic_precision_recall(*, real: Any, generated: Any, k: int = 4, scale: float = 1.2) -> dict[str, float]:
    r"""P-precision and P-recall.

    A sample at distance d of a real one belongs to its neighbourhood with probability
    :math:`\max(0, 1 - d / R)`, where R is ``scale`` times the mean distance of real samples to their k-th
    nearest other; it belongs to the support if it belongs to any neighbourhood, these taken as independent:
    :math:`1 - \prod_i \min(1, d_i / R)`. P-precision is the mean over the generated samples; P-recall exchanges
    the roles. One radius for all and probabilities instead of decisions: outliers count for little.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1.
        scale: Of the radius, > 0.

    Returns:
        ``probabilistic_precision`` and ``probabilistic_recall`` in [0, 1].

    Raises:
        TypeError: ``k`` is no integer or a set is no array.
        ValueError: As in :func:`.knn_precision_recall`, or ``scale`` is not positive and finite.

    Example:
        >>> real = [[0.0, 0], [1, 0], [0, 1], [1, 1]]
        >>> result = probabilistic_precision_recall(real=real, generated=[[0.5, 0.0], [9, 9]], k=1, scale=1)
        >>> round(result["probabilistic_precision"], 4)  # of the first 1 - (1 / 2)^2, of the second 0
        0.375

    Source:
        Park and Kim, "Probabilistic Precision and Recall Towards Reliable Evaluation of Generative Models" (ICCV 2023),
        equations 6 to 10.
    """
    check_integer("k", k, 1)
    if not 0 < scale < math.inf:
        raise ValueError(f"probabilistic_precision_recall: scale is {scale}; allowed are positive numbers.")
    real, generated = (each.double() for each in as_features(real=real, generated=generated))
    real_points, generated_points = Points(real), Points(generated)
    return {
        "probabilistic_precision": _mean_probability(generated_points, real_points, k, scale),
        "probabilistic_recall": _mean_probability(real_points, generated_points, k, scale),
    }


def _mean_probability(queries: Points, support: Points, k: int, scale: float) -> float:
    """Mean over ``queries`` of the probability that they lie in the support of ``support``."""
    every = torch.arange(len(support), device=support.features.device)
    radius = scale * float(Balls(support, k).exact_radii(every).sqrt().mean())
    log_outside = torch.zeros(len(queries), dtype=torch.float64, device=support.features.device)
    for rows, columns, squares, row_norms, column_norms in tiles(queries, support):
        near = squares <= _NEAR * (row_norms[:, None] + column_norms)  # where a product's rounding shows
        i, j = torch.nonzero(near, as_tuple=True)
        squares[i, j] = pair_distances(queries, support, i + rows.start, j + columns.start)
        shares = squares.clamp_min_(0).sqrt_() / radius if radius else (squares > 0).double()
        log_outside[rows] += shares.clamp_max_(1).log_().sum(dim=1)
    return float((1 - log_outside.exp()).mean())
