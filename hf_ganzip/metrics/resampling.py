# SPDX-License-Identifier: Apache-2.0
"""How sure a figure is: 95 % intervals from resamples, of means by the bootstrap, of metrics of distributions by
halves of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import check_integer


LEVEL = 0.95
_ENDS = (0.025, 0.975)  # shares below the ends


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, None where there was no resampling."""

    value: float
    low: float | None = None
    high: float | None = None


def resamples(count: int, number: int, seed: int = 0) -> Tensor:
    """``number`` draws of ``count`` indices with replacement (number, count) int64. Use them for both sides of a
    difference, which is then paired.

    Raises:
        TypeError: ``number`` or ``seed`` is no integer.
        ValueError: One of them is negative.
    """
    check_integer("bootstrap", number, 0)
    check_integer("seed", seed, 0)
    return torch.randint(count, (number, count), generator=torch.Generator().manual_seed(seed % 2**32))


def halves(count: int, number: int, seed: int = 0) -> Tensor:
    """``number`` halves of ``count`` indices (number, count // 2) int64, for :func:`interval_by_halves`."""
    scores = torch.rand(number, count, generator=torch.Generator().manual_seed(seed % 2**32))
    return scores.argsort(dim=1)[:, : count // 2]


def interval_of_mean(values: Tensor, draws: Tensor) -> Interval:
    """Bootstrap interval of the mean of ``values`` (N,), by ``draws`` of :func:`resamples`."""
    return interval(float(values.mean()), values[draws].mean(dim=1))


def interval_by_halves(value: float, found: Tensor, low: float = -torch.inf, high: float = torch.inf) -> Interval:
    """Interval of a metric of distributions, from what halves of the samples gave, ``found`` (R,); it ends at the
    bounds of the metric.

    The halves, drawn without replacement, scatter about their median as the metric of all samples does about
    its own, so their percentiles are moved to have ``value`` as median: halves are biased where few samples
    are. Resampling with replacement would not do: a sample that is drawn twice is its own nearest neighbour,
    and narrows the distribution. Nor would resampling what was decided of each sample, because for recall most
    of the uncertainty is that of the generated samples that span the balls. LSH recall, which counts shared
    cells, scatters less between halves than between fresh samples: its intervals are too narrow.

    Source:
        Shao, Wu, "A General Theory for Jackknife Variance Estimation" (Annals of Statistics 1989): half of the samples
        deleted, where none scales.
    """
    if not len(found):
        return Interval(value)
    moved = interval(value, found - found.quantile(0.5) + value)
    return Interval(value, max(moved.low, low), min(moved.high, high))  # type: ignore[type-var]


def interval(value: float, found: Tensor) -> Interval:
    """Percentiles of ``found`` (R,); without any, the value alone.

    Example:
        >>> interval(20.0, torch.arange(41.0, dtype=torch.float64))
        Interval(value=20.0, low=1.0, high=39.0)
    """
    if not len(found):
        return Interval(value)
    if not bool(torch.isfinite(found).all()):  # the ratio of equal images: quantiles would subtract infinities
        ordered = found.sort().values
        low, high = (ordered[round(share * (len(found) - 1))] for share in _ENDS)
    else:
        low, high = torch.quantile(found, torch.tensor(_ENDS, dtype=found.dtype))
    return Interval(value, float(low), float(high))
