# SPDX-License-Identifier: Apache-2.0
"""How sure a figure is: 95 % intervals from resamples of the samples with replacement (bootstrap, percentiles)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import check_integer


LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, None where there was no resampling."""

    value: float
    low: float | None = None
    high: float | None = None


def resamples(count: int, number: int, seed: int = 0) -> Tensor:
    """``number`` draws of ``count`` indices with replacement (number, count) int64. Use them for both sides of a difference, which is then paired.

    Raises:
        TypeError: ``number`` or ``seed`` is no integer.
        ValueError: One of them is negative.
    """
    check_integer("bootstrap", number, 0)
    check_integer("seed", seed, 0)
    return torch.randint(count, (number, count), generator=torch.Generator().manual_seed(seed % 2**32))


def interval_of_mean(values: Tensor, draws: Tensor) -> Interval:
    """Of the mean of ``values`` (N,), such as memberships of samples: their own resampled means.

    Precision and recall are resampled so, and not by their features: a sample that is drawn twice is its own neighbour, which shrinks the balls. The
    interval covers the choice of the samples that are judged, not that of the samples that judge.
    """
    return interval(float(values.mean()), values[draws].mean(dim=1))


def interval_of_statistic(statistic: Callable[[Tensor], float], value: float, draws: Tensor) -> Interval:
    """Of a ``statistic`` of indices that is biased in resamples, as distances of distributions are: samples drawn twice narrow a distribution.

    The percentiles of the resampled statistic are moved by what their median is off ``value``.
    """
    return centred_interval(value, torch.tensor([statistic(draw) for draw in draws], dtype=torch.float64))


def centred_interval(value: float, found: Tensor) -> Interval:
    """Percentiles of ``found`` (R,), moved so that their median is ``value``."""
    return interval(value, found - found.median() + value) if len(found) else Interval(value)


def interval(value: float, found: Tensor) -> Interval:
    """Percentiles of ``found`` (R,); without any, the value alone.

    Example:
        >>> interval(0.5, torch.linspace(0, 1, 101, dtype=torch.float64))
        Interval(value=0.5, low=0.025, high=0.975)
    """
    if not len(found):
        return Interval(value)
    if not bool(torch.isfinite(found).all()):  # the ratio of equal images: quantiles would subtract infinities
        ordered = found.sort().values
        low, high = (ordered[round(q * (len(found) - 1))] for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    else:
        low, high = torch.quantile(found, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=found.dtype))
    return Interval(value, float(low), float(high))
