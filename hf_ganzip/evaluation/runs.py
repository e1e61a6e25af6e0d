# SPDX-License-Identifier: Apache-2.0
"""Tables of training runs that are repeated with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


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
) -> list[str]:
    """Markdown lines: a row per variant, a column per figure.

    Args:
        runs: As for :func:`variants_of`.
        columns: Title -> (name of the figure, place on the curve, digits).
        heading: Title of the first column.
    """
    lines = ["| " + " | ".join([heading, "seeds", *columns]) + " |", "|---" * (2 + len(columns)) + "|"]
    for variant, curves in variants_of(runs).items():
        cells = [spread(curves, name, place, digits) for name, place, digits in columns.values()]
        lines.append("| " + " | ".join([variant, str(len(curves)), *cells]) + " |")
    return lines
