# SPDX-License-Identifier: Apache-2.0
"""Clipped Density and Clipped Coverage: no sample and no ball of k nearest neighbours counts for more than one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .inputs import as_features, check_integer
from .knn import Balls, Points, counts


class _ClippedBalls(Balls):
    """Balls whose radii reach no farther than the median radius."""

    def __init__(self, points: Points, k: int):
        super().__init__(points, k)
        every = torch.arange(len(points), device=points.features.device)
        self.limit = _median_of_squares(super().exact_radii(every))
        self.radii = self.radii.clamp_max(self.limit)

    def exact_radii(self, which: Tensor) -> Tensor:
        return super().exact_radii(which).clamp_max(self.limit)


def _median_of_squares(squares: Tensor) -> float:
    """Square of the median of the roots: of an odd number exactly one of ``squares``."""
    middle = squares.sort().values[(len(squares) - 1) // 2 : len(squares) // 2 + 1]
    return float(middle[0]) if len(squares) % 2 else float(middle.sqrt().mean() ** 2)


def clipped_density_coverage(*, real: Any, generated: Any, k: int = 5) -> dict[str, float]:
    r"""Clipped Density (fidelity) and Clipped Coverage: the share of good samples that would give what was counted.

    Density counts in how many balls of real samples a generated one lies, over k, and no more than 1; a ball reaches
    to the k-th nearest other real sample, and no farther than the median of those distances. The mean over the
    generated samples is divided by that of the real samples themselves. Coverage counts for every real sample the
    generated ones in its (unclipped) ball, over k, and no more than 1; the mean is turned into a share by the count
    that is expected of m good samples, :math:`f(m) = \mathbb{E}[\min(X, k)] / k` with :math:`X` beta-binomial of m
    trials and parameters k and N - k: ``clipped_coverage`` is :math:`f^{-1}(\mathrm{mean}) / M`, interpolated linearly
    between the values of f.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N > k.
        generated: Features (M, d), M >= 2. Real samples among them (copies) count as good ones.
        k: Neighbour that sets the radius of a real ball, >= 1.

    Returns:
        ``clipped_density`` and ``clipped_coverage`` in [0, 1].

    Raises:
        TypeError: ``k`` is no integer or a set is no array.
        ValueError: As in :func:`.knn_precision_recall`, or ``k`` >= N.

    Example:
        >>> x = torch.randn(1200, 4, generator=torch.Generator().manual_seed(0))
        >>> half_of_them_bad = torch.cat([x[600:900], 9 + x[900:]])
        >>> result = clipped_density_coverage(real=x[:600], generated=half_of_them_bad)
        >>> {name: round(value, 1) for name, value in result.items()}
        {'clipped_density': 0.5, 'clipped_coverage': 0.5}

    Source:
        Salvy, Talbot and Thirion, "Enhanced Generative Model Evaluation with Clipped Density and Coverage" (ICLR 2026).
    """
    check_integer("k", k, 1)
    real, generated = as_features(real=real, generated=generated)
    if k >= len(real):
        raise ValueError(f"k is {k} and real has {len(real)} rows; allowed is a k below that.")
    points = Points(real)
    clipped = _ClippedBalls(points, k)
    inside, _ = counts(Points(generated), clipped)
    own, _ = counts(points, clipped)  # every point lies in its own ball, which does not count
    density = float((inside / k).clamp_max(1).mean() / ((own - 1) / k).clamp_max(1).mean())
    _, held = counts(Points(generated), Balls(points, k))
    mean, m = float((held / k).clamp_max(1).mean()), len(generated)
    coverage = float(np.interp(mean, expected_coverage(k, len(real), m), np.arange(m + 1))) / m
    return {"clipped_density": min(density, 1.0), "clipped_coverage": coverage}


def expected_coverage(k: int, n: int, m: int) -> np.ndarray:
    r""":math:`f(0), \dots, f(m)` of :func:`clipped_density_coverage`, float64: mean coverage of i good samples.

    Example:
        >>> expected_coverage(1, 3, 2).round(4).tolist()  # one ball of mass Beta(1, 2): 1/3, then 1 - E[(1 - p)^2]
        [0.0, 0.3333, 0.5]
    """
    trials = torch.arange(m + 1, dtype=torch.float64, device="cpu")[:, None]
    j = torch.arange(k, dtype=torch.float64, device="cpu")
    few = torch.where(j <= trials, j, 0)  # more hits than trials have no probability

    def log_beta(a: Tensor, b: Tensor) -> Tensor:
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    choose = torch.lgamma(trials + 1) - torch.lgamma(few + 1) - torch.lgamma(trials - few + 1)
    whole = log_beta(j.new_tensor(k), j.new_tensor(n - k))
    probability = (choose + log_beta(k + few, n - k + trials - few) - whole).exp()
    missing = (torch.where(j <= trials, probability, 0) * (k - j)).sum(dim=1)
    return (1 - missing / k).clamp_min(0).numpy()
