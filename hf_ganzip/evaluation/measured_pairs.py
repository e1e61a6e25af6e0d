# SPDX-License-Identifier: Apache-2.0
"""Figures of a comparison with intervals: of image pairs, of distributions, of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics.frechet import frechet_to
from ..metrics.knn import knn_memberships
from ..metrics.lsh import lsh_memberships
from ..metrics.resampling import Interval, centred_interval, interval, interval_of_mean
from .evaluate import measure


_MEMBERSHIPS = {"knn_precision_recall": knn_memberships, "lsh_precision_recall": lsh_memberships}
_PEAK = 255.0


def squared_errors(original: Tensor, candidate: Tensor) -> Tensor:
    """Mean squared differences (N,) of uint8 images (N, C, H, W), float64."""
    return (original.double() - candidate.double()).square().flatten(1).mean(dim=1)


def psnr(errors: Tensor, draws: Tensor) -> Interval:
    """Peak signal-to-noise ratio in dB of the mean over ``errors`` (N,), see :func:`squared_errors`: one equal pair would make a mean of ratios infinite."""
    return decibels(torch.full_like(errors, _PEAK**2), errors, draws)


def decibels(signal: Tensor, noise: Tensor, draws: Tensor) -> Interval:
    """10 log10 of the ratio of the sums of ``signal`` (N,) and ``noise`` (N,), inf for no noise."""
    found = 10 * (signal[draws].sum(dim=1) / noise[draws].sum(dim=1)).log10()
    return interval(float(10 * (signal.sum() / noise.sum()).log10()), found)


def feature_distance(original: Tensor, candidate: Tensor, draws: Tensor) -> Interval:
    """Distance of the features (N, d) of a pair over that of two different originals, means: 0 for equal images, about 1 for unrelated ones.

    Raises:
        ValueError: Fewer than two images, or all have the same features.
    """
    original, candidate = original.double(), candidate.double()
    scale = torch.pdist(original).mean() if len(original) > 1 else torch.zeros(())
    if not scale > 0:
        raise ValueError("the images of the original do not differ in their features; draw two or more that do.")
    return interval_of_mean((original - candidate).norm(dim=1) / scale, draws)


def distribution(
    metric: str | Callable,
    reference: Tensor | None,
    original: Tensor,
    candidate: Tensor,
    *,
    draws: Tensor,
    seed: int,
    progress: bool = True,
) -> dict[str, dict[str, Interval]]:
    """One metric of features with intervals.

    Args:
        metric: Name of a metric, or a function ``(real=, generated=) -> dict``.
        reference: Features (M, d) that both are compared with; None: the candidate is compared with the original.
        original: Features (N, d).
        candidate: Features (N, d), of the same seeds.
        draws: Resamples, see :func:`.resamples`. Without a reference both sides are resampled together; with one it stays as it is.
        seed: Of the hyperplanes.
        progress: Show a progress bar.

    Returns:
        Figure -> "candidate", and with a reference "original" and "difference" (candidate - original, resampled in pairs).

    Raises:
        ValueError: As the metric.
    """
    if isinstance(metric, str) and metric in _MEMBERSHIPS:
        return _of_memberships(metric, reference, original, candidate, draws, seed)
    value = _statistic(metric, seed)
    sides = {"candidate": candidate} if reference is None else {"original": original, "candidate": candidate}
    to_reference = None if reference is None else value(reference)
    values = {side: (value(original) if to_reference is None else to_reference)(rows) for side, rows in sides.items()}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    name = metric if isinstance(metric, str) else metric.__name__
    for draw in tqdm(draws, desc=f"resample {name}", disable=not progress):
        distance = value(original[draw]) if to_reference is None else to_reference
        for side, rows in sides.items():
            found[side].append(distance(rows[draw]))
    result = {}
    for figure, number in values["candidate"].items():
        columns = {side: _column(found[side], figure) for side in sides}
        result[figure] = {side: _of_distance(values[side][figure], columns[side]) for side in sides}
        if reference is not None:
            gap = number - values["original"][figure]
            result[figure]["difference"] = centred_interval(gap, columns["candidate"] - columns["original"])
    return result


def _of_distance(value: float, found: Tensor) -> Interval:
    """:func:`.centred_interval`, that does not begin below 0 where neither the value nor a resample is below."""
    centred = centred_interval(value, found)
    if centred.low is None or value < 0 or bool((found < 0).any()):
        return centred
    return Interval(value, max(centred.low, 0.0), centred.high)


def _column(rows: list[dict[str, float]], figure: str) -> Tensor:
    return torch.tensor([row[figure] for row in rows], dtype=torch.float64)


def _of_memberships(
    metric: str, reference: Tensor | None, original: Tensor, candidate: Tensor, draws: Tensor, seed: int
) -> dict[str, dict[str, Interval]]:
    options = {"seed": seed} if metric == "lsh_precision_recall" else {}

    def of(real: Tensor, generated: Tensor) -> Mapping[str, Tensor]:
        return _MEMBERSHIPS[metric](real=real, generated=generated, **options)

    if reference is None:
        found = of(original, candidate)
        return {name: {"candidate": interval_of_mean(inside, draws)} for name, inside in found.items()}
    sides = {"original": of(reference, original), "candidate": of(reference, candidate)}
    judged = torch.randint(len(reference), (len(draws), len(reference)), generator=torch.Generator().manual_seed(seed))
    result = {}
    for name in sides["candidate"]:
        before, after = (sides[side][name] for side in ("original", "candidate"))
        drawn = judged if name.endswith("recall") else draws
        named = {"original": before, "candidate": after, "difference": after - before}
        result[name] = {side: interval_of_mean(inside, drawn) for side, inside in named.items()}
    return result


def _statistic(metric: str | Callable, seed: int) -> Callable[[Tensor], Callable[[Tensor], dict[str, float]]]:
    """Real features -> generated features -> figures of the metric, without its conditions and spreads."""
    if metric == "frechet_distance":

        def frechet(real: Tensor) -> Callable[[Tensor], dict[str, float]]:
            distance = frechet_to(real)
            return lambda generated: {"frechet_distance": distance(generated)}

        return frechet

    def any_metric(real: Tensor) -> Callable[[Tensor], dict[str, float]]:
        def figures(generated: Tensor) -> dict[str, float]:
            (found,) = measure(real=real, generated=generated, metrics=(metric,), seed=seed).values()
            return {
                name: value for name, value in found.items() if isinstance(value, float) and not name.endswith("_std")
            }

        return figures

    return any_metric


def sqnr(signal: Tensor, noise: Tensor, keys: list[Any], draws: Tensor) -> tuple[Interval, list[dict[str, Any]]]:
    """Signal to quantization noise in dB of all predictions, and of each timestep, from sums of squares (N, T) by image.

    Overall it is the ratio of the sums over all timesteps.
    """
    rows = []
    for column, (component, step) in enumerate(keys):
        found = decibels(signal[:, column], noise[:, column], draws)
        rows.append(
            {"component": component, "timestep": step, "sqnr": found.value, "low": found.low, "high": found.high}
        )
    return decibels(signal.sum(dim=1), noise.sum(dim=1), draws), rows
