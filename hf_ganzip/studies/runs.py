# SPDX-License-Identifier: Apache-2.0
"""Tables of training runs that are repeated with several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.reports import markdown_table


def variants_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[list[dict[str, float]]]]:
    """Curves of every variant, in the order of the runs.

    Args:
        runs: Each with ``variant`` and ``curve``, a list of dicts of figures in the order of training.
    """
    found: dict[str, list[list[dict[str, float]]]] = {}
    for run in runs:
        found.setdefault(run["variant"], []).append(run["curve"])
    return found


def spread(curves: Sequence[Sequence[Mapping[str, float]]], name: str, place: int = -1, digits: int = 3) -> str:
    """Mean and standard deviation (n - 1) over runs of a figure at a place of the curve; the figure alone for one run.

    Raises:
        KeyError: A run without that figure.

    Example:
        >>> spread([[{"fid": 1.0}], [{"fid": 3.0}]], "fid", digits=1)
        '2.0 ± 1.4'
    """
    values = [curve[place][name] for curve in curves]
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def runs_table(
    runs: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, int, int]], heading: str = "variant"
) -> str:
    """Markdown: a row per variant, a column per figure.

    Args:
        runs: As for :func:`variants_of`.
        columns: Title -> (name of the figure, place on the curve, digits).
        heading: Title of the first column.
    """
    rows = [
        [variant, str(len(curves)), *(spread(curves, *column) for column in columns.values())]
        for variant, curves in variants_of(runs).items()
    ]
    return markdown_table([[heading, "seeds", *columns], *rows])


def mean_with_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean and its 95 % interval by Student's t; the mean alone for one value.

    Example:
        >>> mean_with_interval([1.0, 2.0, 3.0])
        '2.00 (-0.48 to 4.48)'
    """
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = half_interval(values)
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of two or more values, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def paired_differences(runs: Sequence[Mapping[str, Any]], name: str, place: int = -1) -> dict[str, list[float]]:
    """Variant -> its figure minus that of the first variant, for every seed that both have; without any, left out.

    Args:
        runs: As for :func:`variants_of`, with ``seed``.
        name: Figure.
        place: On the curve.

    Example:
        >>> runs = [{"variant": v, "seed": 0, "curve": [{"fid": x}]} for v, x in (("a", 1.0), ("b", 3.0))]
        >>> paired_differences(runs, "fid")
        {'b': [2.0]}
    """
    figures = {(run["variant"], run["seed"]): run["curve"][place][name] for run in runs}
    first = runs[0]["variant"]
    found: dict[str, list[float]] = {}
    for (variant, seed), value in figures.items():
        if variant != first and (first, seed) in figures:
            found.setdefault(variant, []).append(value - figures[first, seed])
    return found


def differences_table(
    runs: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, int, int]], heading: str = "variant"
) -> str:
    """Markdown: a row per variant but the first, a column per figure, of differences to the first variant seed
    by seed with their 95 % intervals.

    Args:
        runs: As for :func:`paired_differences`.
        columns: As for :func:`runs_table`.
        heading: Title of the first column.
    """
    found = {title: paired_differences(runs, name, place) for title, (name, place, _) in columns.items()}
    rows = []
    for variant, values in next(iter(found.values())).items():
        cells = [mean_with_interval(found[title][variant], digits) for title, (_, _, digits) in columns.items()]
        rows.append([variant, str(len(values)), *cells])
    return markdown_table([[heading, "seeds", *columns], *rows])
