# SPDX-License-Identifier: Apache-2.0
"""How far outliers move precision and recall, and whether these still tell a good generator from a bad one.

A run holds the values ``{label: [precision, recall]}`` of every generator without outliers
(``run["clean"]``) and with a share of them in one or both sets (``run[place][share]``). Drift is what is
left of a change after what outliers must change: a real outlier that no generator makes is not recalled, a
generated one is not precise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .pooled_scores import METHODS, Balls, Pool


PLACES = ("reference", "generated", "both")
SIDES = ("precision", "recall")
PARTS = ("stay", "fall", "both")
Scores = Mapping[str, Sequence[float]]


def with_outliers(order: Tensor, count: int) -> Tensor:
    """Rows (N,) of a pool that holds N samples and then outliers: the first ``count`` samples of ``order`` (N,) are
    replaced by as many outliers.
    """
    rows = torch.arange(len(order))
    rows[order[:count]] = len(order) + torch.arange(count)
    return rows


def geometry_of(reference: Pool, balls: Balls, distances: Mapping[str, Tensor], num_samples: int) -> dict[str, Any]:
    """What the outliers of a set are like.

    Args:
        reference: Pool of ``num_samples`` ordinary samples and then outliers.
        balls: Of a set with at least one outlier.
        distances: Generator -> squared distances (P, M) of the pool to its samples.
        num_samples: See above.

    Returns:
        ``distance``: median distance of an outlier to the nearest ordinary sample, over the median radius (third
        neighbour) of these; ``radius``: median radius of the outliers' balls, over the same; ``alone``: share of
        outliers without an ordinary sample in their hash cell, mean over draws; ``inside``: generator -> samples in an
        outlier's ball, mean over the outliers.
    """
    strange = balls.rows >= num_samples
    ordinary, outliers = balls.rows[~strange], balls.rows[strange]
    usual = reference.distances[ordinary][:, ordinary].kthvalue(3, dim=1).values.sqrt().median()
    keys = reference.keys["plain"]
    alone = ~(keys[outliers][:, None] == keys[ordinary]).any(dim=1)
    radii = balls.knn[strange]
    return {
        "distance": float(reference.distances[outliers][:, ordinary].amin(dim=1).sqrt().median() / usual),
        "radius": float(radii.sqrt().median() / usual),
        "alone": float(alone.double().mean()),
        "inside": {
            name: float((each[outliers] <= radii[:, None]).double().sum(dim=1).mean())
            for name, each in distances.items()
        },
    }


def is_judged(side: str, place: str) -> bool:
    """Whether outliers are among the samples that this value judges: real ones for recall, else generated ones."""
    return place == "both" or (place == "generated") == (side == "precision")


def drift(clean: float, value: float, side: str, place: str, share: float) -> float:
    """Change beyond what outliers must change.

    A share of uncovered outliers among the samples that are judged leaves ``(1 - share) * clean``; outliers in the
    other set leave the value as it is; where both sets have them, up to ``share`` more may be covered.

    Example:
        >>> drift(0.8, 0.8, "precision", "reference", 0.05), round(drift(0.8, 0.74, "recall", "reference", 0.05), 2)
        (0.0, -0.02)
    """
    lowest = (1 - share) * clean if is_judged(side, place) else clean
    highest = lowest + share if place == "both" else lowest
    return value - min(max(value, lowest), highest)


def gaps_of(scores: Mapping[str, Scores]) -> dict[str, list[float]]:
    """Method -> how far the ideal generator is above the one of poor images (precision) and above that of few kinds of
    images (recall).

    The generators stand in the order good, ..., few kinds, poor.
    """
    good, *_, few, poor = scores.values()
    return {method: [good[method][0] - poor[method][0], good[method][1] - few[method][1]] for method in METHODS}


def drifts_of(run: Mapping[str, Any], method: str, place: str, share: str, unit: str) -> dict[str, list[float]]:
    """Absolute drifts of every generator, of what outliers must leave, "stay", and of what they must lower, "fall".

    Args:
        run: See above; with ``num_samples``.
        method: One of ``METHODS``.
        place: One of ``PLACES``.
        share: As in the run.
        unit: "gap" of the method between good and bad (:func:`gaps_of`), "value" without outliers, or "point", 0.01. A
            gap or a value below one sample, or below 0, counts as one sample: such a method does not tell good from
            bad.
    """
    least = 1 / run["num_samples"]
    gaps = gaps_of(run["clean"])[method]
    found: dict[str, list[float]] = {"stay": [], "fall": []}
    for name, scores in run["clean"].items():
        for i, side in enumerate(SIDES):
            clean = scores[method][i]
            moved = abs(drift(clean, run[place][share][name][method][i], side, place, float(share)))
            unit_size = {"gap": max(gaps[i], least), "value": max(clean, least), "point": 0.01}[unit]
            found["fall" if is_judged(side, place) else "stay"].append(moved / unit_size)
    return found


def mean_drift(run: Mapping[str, Any], method: str, part: str, unit: str, share: str | None = None) -> float:
    """Mean of what must "stay" or "fall" with outliers in one set, or in "both", over generators and shares or one."""
    places = ("both",) if part == "both" else PLACES[:2]
    shares = list(run["both"]) if share is None else [share]
    key = "fall" if part == "both" else part
    return statistics.fmean(
        value for place in places for each in shares for value in drifts_of(run, method, place, each, unit)[key]
    )


def passed(run: Mapping[str, Any], method: str, share: str) -> float:
    """Share of the outliers that count as covered by a set without outliers, as far as the value shows it: mean over
    generators and sides.

    Where outliers take the place of samples that were covered as often as all, the value is
    ``(1 - share) * clean + share * passed``.
    """
    found = [
        drift(scores[method][i], run[place][share][name][method][i], side, place, float(share)) / float(share)
        for name, scores in run["clean"].items()
        for i, (side, place) in enumerate(zip(SIDES, ("generated", "reference")))
    ]
    return statistics.fmean(found)
