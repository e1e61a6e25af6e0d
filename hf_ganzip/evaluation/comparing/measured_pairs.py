# SPDX-License-Identifier: Apache-2.0
"""Figures of a comparison with intervals: of image pairs, of distributions, of predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...metrics.frechet import frechet_to
from ...metrics.hyperplanes import default_hyperplanes
from ...metrics.knn import knn_to
from ...metrics.lsh import LSHPrecisionRecall
from ...metrics.resampling import Interval, interval, interval_by_halves, interval_of_mean
from ..evaluate import measure


_SHARES = ("knn_precision_recall", "lsh_precision_recall")  # whose figures end at 1
_OPTIONS = {"kernel_distance": {"subset_size": None}}  # of all images: halves take the place of subsets
_PEAK = 255.0


def squared_errors(original: Tensor, candidate: Tensor) -> Tensor:
    """Mean squared differences (N,) of uint8 images (N, C, H, W), float64."""
    return (original.double() - candidate.double()).square().flatten(1).mean(dim=1)


def psnr(errors: Tensor, draws: Tensor) -> Interval:
    """Peak signal-to-noise ratio in dB of the mean over ``errors`` (N,), see :func:`squared_errors`: one equal pair
    would make a mean of ratios infinite.
    """
    return decibels(torch.full_like(errors, _PEAK**2), errors, draws)


def decibels(signal: Tensor, noise: Tensor, draws: Tensor) -> Interval:
    """10 log10 of the ratio of the sums of ``signal`` (N,) and ``noise`` (N,), inf for no noise."""
    found = 10 * (signal[draws].sum(dim=1) / noise[draws].sum(dim=1)).log10()
    return interval(float(10 * (signal.sum() / noise.sum()).log10()), found)


def feature_distance(original: Tensor, candidate: Tensor, draws: Tensor) -> Interval:
    """Distance of the features (N, d) of a pair over that of two different originals, means: 0 for equal images, about
    1 for unrelated ones.

    Raises:
        ValueError: Fewer than two images, or all have the same features.
    """
    original, candidate = original.double(), candidate.double()
    scale = torch.pdist(original).mean() if len(original) > 1 else torch.zeros(())
    if not scale > 0:
        raise ValueError("the images of the original do not differ in their features; draw two or more that do.")
    return interval_of_mean((original - candidate).norm(dim=1) / scale, draws)


def distribution(
    metric: str | Callable[..., Any],
    reference: Tensor | None,
    original: Tensor,
    candidate: Tensor,
    *,
    drawn: Tensor,
    seed: int,
    progress: bool = True,
) -> dict[str, dict[str, Interval]]:
    """One metric of features with intervals.

    Args:
        metric: Name of a metric, or a function ``(real=, generated=) -> dict``.
        reference: Features (M, d) that both are compared with; None: the candidate is compared with the original.
        original: Features (N, d).
        candidate: Features (N, d), of the same seeds.
        drawn: Halves, see :func:`.halves`: the same of both sides, so that differences are paired. A reference stays
            as it is.
        seed: Of the hyperplanes.
        progress: Show a progress bar.

    Returns:
        Figure -> "candidate", and with a reference "original" and "difference" (candidate - original).

    Raises:
        ValueError: As the metric.
    """
    sides = {"candidate": candidate} if reference is None else {"original": original, "candidate": candidate}
    bits = default_hyperplanes(len(candidate) + len(original if reference is None else reference))
    against = _figures_against(metric, seed, bits)
    to_reference = None if reference is None else against(reference)
    values = {side: (to_reference or against(original))(rows) for side, rows in sides.items()}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    name = metric if isinstance(metric, str) else metric.__name__
    for half in tqdm(drawn, desc=f"resample {name}", disable=not progress):
        figures = to_reference or against(original[half])
        for side, rows in sides.items():
            found[side].append(figures(rows[half]))
    result: dict[str, dict[str, Interval]] = {}
    for figure in values["candidate"]:
        columns = {side: torch.tensor([row[figure] for row in found[side]]).double() for side in sides}
        before = {side: values[side][figure] for side in sides}
        high = 1.0 if name in _SHARES else torch.inf
        low = -torch.inf if any(before[side] < 0 or (columns[side] < 0).any() for side in sides) else 0.0
        result[figure] = {side: interval_by_halves(before[side], columns[side], low, high) for side in sides}
        if reference is not None:
            gap = before["candidate"] - before["original"]
            result[figure]["difference"] = interval_by_halves(gap, columns["candidate"] - columns["original"])
    return result


def _figures_against(
    metric: str | Callable[..., Any], seed: int, bits: int
) -> Callable[[Tensor], Callable[[Tensor], dict[str, float]]]:
    """Real features -> generated features -> figures of the metric, without its conditions and spreads; ``bits``
    hyperplanes whatever the sizes.
    """

    def against(real: Tensor) -> Callable[[Tensor], dict[str, float]]:
        if metric == "knn_precision_recall":
            return knn_to(real)
        if metric == "frechet_distance":
            distance = frechet_to(real)
            return lambda generated: {"frechet_distance": distance(generated)}
        if metric == "lsh_precision_recall":
            seen = LSHPrecisionRecall(k=3, num_hyperplanes=bits, draws=10, seed=seed).update(real=real)
            return lambda generated: _values(copy.copy(seen).update(generated=generated).compute())
        call: dict[str, Any] = {"metrics": [metric], "seed": seed, "metric_options": _OPTIONS.get(str(metric))}
        return lambda generated: _values(*measure(real=real, generated=generated, **call).values())

    return against


def _values(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float) and not name.endswith("_std")}


def sqnr(signal: Tensor, noise: Tensor, keys: list[Any], draws: Tensor) -> tuple[Interval, list[dict[str, Any]]]:
    """Signal to quantization noise in dB of all predictions, and of each timestep, from sums of squares (N, T).

    Overall it is the ratio of the sums over all timesteps.
    """
    rows = []
    for column, (component, step) in enumerate(keys):
        found = decibels(signal[:, column], noise[:, column], draws)
        row = {"component": component, "timestep": step, "sqnr": found.value, "low": found.low, "high": found.high}
        rows.append(row)
    return decibels(signal.sum(dim=1), noise.sum(dim=1), draws), rows
