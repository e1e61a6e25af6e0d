# SPDX-License-Identifier: Apache-2.0
"""Rate against distortion: the best points of a set of quantizers, and differences in dB at equal bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ganzip.evaluation.plotting import new_figure


Points = list[tuple[float, float]]  # (bytes, dB), ascending in both


def front(rows: Iterable[Mapping[str, Any]], value: str) -> Points:
    """The points that none of fewer or equal bytes reaches.

    Example:
        >>> front([{"bytes": 2, "dB": 5.0}, {"bytes": 1, "dB": 3.0}, {"bytes": 3, "dB": 4.0}], "dB")
        [(1, 3.0), (2, 5.0)]
    """
    found: Points = []
    for size, decibels in sorted((row["bytes"], row[value]) for row in rows if row.get(value) is not None):
        if not found or decibels > found[-1][1]:
            if found and found[-1][0] == size:
                found.pop()
            found.append((size, decibels))
    return found


def at(points: Points, size: float) -> float | None:
    """dB at a size, linear in its logarithm between two points; None outside.

    Example:
        >>> at([(1.0, 3.0), (4.0, 5.0)], 2.0), at([(1.0, 3.0)], 2.0)
        (4.0, None)
    """
    for (low, before), (high, after) in zip(points, points[1:]):
        if low <= size <= high:
            return before + (after - before) * math.log(size / low) / math.log(high / low)
    return next((value for each, value in points if each == size), None)


def best_at(rows: Sequence[Mapping[str, Any]], value: str, size: float) -> float | None:
    """dB of the best method at a size, each between its own points; None where no method has points on both sides."""
    methods = {row["method"] for row in rows}
    curves = [front((row for row in rows if row["method"] == method), value) for method in methods]
    return max((found for curve in curves if (found := at(curve, size)) is not None), default=None)


def gains(
    ours: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]], value: str, sizes: tuple[float, float]
) -> dict[str, Any]:
    """Our best method above each of the peers' best points within ``sizes`` (bytes): how many are compared, how many
    have none of ours at their size, least and median in dB.
    """
    points = [point for point in front(peers, value) if sizes[0] <= point[0] <= sizes[1]]
    found = [mine - theirs for size, theirs in points if (mine := best_at(ours, value, size)) is not None]
    figures = {"least dB": min(found), "median dB": statistics.median(found)} if found else {}
    return {"points": len(found), "outside": len(points) - len(found), **figures}


def save_plot(rows: Sequence[Mapping[str, Any]], value: str, path: Path) -> None:
    """dB against total bits per weight, one panel a model, one line a method; the peers' lines are dashed."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = new_figure(7 * len(models), 6.5)
    for axis, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models):
        own = [row for row in rows if row["model"] == model and row.get(value) is not None]
        for number, method in enumerate(dict.fromkeys(row["method"] for row in own)):
            line = sorted((row["bits per weight"], row[value]) for row in own if row["method"] == method)
            peer = any(row["by"] == "peer" for row in own if row["method"] == method)
            style = {"linestyle": "--", "linewidth": 1} if peer else {"linewidth": 1.8}
            axis.plot(*zip(*line), marker="os^Dv*PX<>"[number % 10], markersize=4, label=method, **style)
        axis.set(title=model, xlabel="bits per weight, every byte of the model counted", ylabel=value, xlim=(2, 9))
        axis.grid(alpha=0.4)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
