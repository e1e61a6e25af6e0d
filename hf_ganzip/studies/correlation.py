# SPDX-License-Identifier: Apache-2.0
"""Studies over many reports: how distances and precision/recall scores move together; Pareto-optimal models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ..core.extras import needed_by
from ..core.registry import lookup
from ..metrics import warn_if_unpaired


METHODS = {"pearson": "pearsonr", "spearman": "spearmanr"}  # names in scipy.stats
DISTANCES = ("frechet_distance", "kernel_distance")
SCORES = (
    *("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall"),
    *("precision", "recall", "density", "coverage"),
)


def correlation(x: Sequence[float], y: Sequence[float], *, method: str = "pearson") -> dict[str, Any]:
    """Correlation of two lists of numbers: Pearson's of the values, or Spearman's of their ranks (ties share one).

    Args:
        x: n finite numbers, n >= 3, not all equal.
        y: As many.
        method: "pearson" or "spearman".

    Returns:
        ``coefficient`` in [-1, 1], two-sided ``p_value`` of no correlation in [0, 1], and ``n``.

    Raises:
        ImportError: scipy is missing.
        ValueError: The lengths differ, n < 3, a list is constant or not finite, or ``method`` is unknown.

    Example:
        >>> correlation([1, 2, 3, 4], [1, 8, 27, 64], method="spearman")["coefficient"]
        1.0

    Source:
        Mordido et al., section 5.4.
    """
    function = lookup(METHODS, method, "method")
    with needed_by("correlation needs scipy", "metrics"):
        from scipy import stats
    columns = {"x": np.asarray(x, dtype=np.float64), "y": np.asarray(y, dtype=np.float64)}
    shapes = [column.shape for column in columns.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or len(columns["x"]) < 3:
        raise ValueError(
            f"correlation: x has shape {shapes[0]} and y {shapes[1]}; allowed are two lists of the same length, 3 or "
            "more."
        )
    for name, column in columns.items():
        if not np.isfinite(column).all():
            raise ValueError(f"correlation: {name} has NaN or infinity; remove those pairs first.")
        if (column == column[0]).all():
            raise ValueError(f"correlation: {name} is constant ({column[0]:g}); values must differ.")
    result = getattr(stats, function)(*columns.values())
    return {"coefficient": float(result.statistic), "p_value": float(result.pvalue), "n": len(columns["x"])}


def correlation_table(
    rows: Sequence[Mapping[str, float]], *, distances: Sequence[str] = DISTANCES, scores: Sequence[str] = SCORES
) -> list[dict[str, Any]]:
    """Pearson and Spearman correlation of every distance with every precision/recall score over many reports.

    A good score falls where the distance rises, so that -1 is ideal.

    Args:
        rows: One dict of metric name -> value per model, at least 3. Names other than those asked for are ignored, but
            where the conditions of `lsh_precision_recall` are among them and differ, a warning says so.
        distances: Names to correlate; those that no row has are left out.
        scores: Names to correlate them with; those that no row has are left out.

    Returns:
        One dict per pair: ``distance``, ``score``, ``pearson``, ``pearson_p_value``, ``spearman``,
        ``spearman_p_value``, ``n`` and ``problem``: None, or why the four are None (a constant column, as a recall
        that is 0 for every model).

    Raises:
        ImportError: scipy is missing.
        ValueError: Fewer than 3 rows, a name that only some rows have, no distance or no score, NaN or infinity.

    Example:
        >>> rows = [{"frechet_distance": d, "recall": 1 / d} for d in (1, 2, 4)]
        >>> table = correlation_table(rows)
        >>> table[0]["score"], round(table[0]["pearson"], 3), round(table[0]["spearman"], 3)
        ('recall', -0.929, -1.0)

    Source:
        Mordido et al., section 5.4, figures 9 and 10.
    """
    if len(rows) < 3:
        raise ValueError(f"correlation_table: got {len(rows)} rows; at least 3 are needed. Add more models.")
    warn_if_unpaired(rows)
    columns = {}
    for name in (*distances, *scores):
        missing = [index for index, row in enumerate(rows) if name not in row]
        if missing and len(missing) < len(rows):
            raise ValueError(
                f"correlation_table: {name} is missing in rows {', '.join(map(str, missing))}; every row or none must "
                "have it. Evaluate those models with the same metrics."
            )
        if not missing:
            columns[name] = [float(row[name]) for row in rows]
    for kind, names in (("distances", distances), ("scores", scores)):
        if not any(name in columns for name in names):
            raise ValueError(f"correlation_table: the rows have none of the {kind} {', '.join(names)}.")
    if infinite := [name for name, column in columns.items() if not np.isfinite(column).all()]:
        raise ValueError(f"correlation_table: {', '.join(infinite)} have NaN or infinity; remove those rows first.")
    return [
        {"distance": distance, "score": score} | _both(columns, distance, score)
        for distance in distances
        for score in scores
        if distance in columns and score in columns
    ]


def _both(columns: Mapping[str, list[float]], distance: str, score: str) -> dict[str, Any]:
    """Both coefficients of one pair of columns."""
    constant = [name for name in (distance, score) if len(set(columns[name])) == 1]
    result: dict[str, Any] = {}
    for method in METHODS:
        found = {} if constant else correlation(columns[distance], columns[score], method=method)
        result[method], result[f"{method}_p_value"] = found.get("coefficient"), found.get("p_value")
    problem = f"{' and '.join(constant)} constant over the rows" if constant else None
    return result | {"n": len(columns[distance]), "problem": problem}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (precision, recall) points that none dominates: is at least as high in both, and higher in one.

    Equal points dominate each other not: all of them are kept. Takes O(n log n).

    Args:
        points: Pairs of numbers, higher is better in both; none give an empty front.

    Returns:
        Indices in ascending order.

    Raises:
        ValueError: Not pairs, NaN or infinity.

    Example:
        >>> pareto_front([(0.9, 0.2), (0.5, 0.5), (0.4, 0.4), (0.5, 0.5), (0.9, 0.1)])
        [0, 1, 3]

    Source:
        Mordido et al., section 5.5.
    """
    if len(points) == 0:
        return []
    pairs = np.asarray(points, dtype=np.float64)
    if pairs.shape != (len(points), 2) or not np.isfinite(pairs).all():
        raise ValueError(
            f"pareto_front: points have shape {pairs.shape}; allowed are pairs (precision, recall) of finite numbers."
        )
    found = pairs.tolist()
    front, highest = [], -np.inf
    by_rank = sorted(range(len(found)), key=lambda index: found[index], reverse=True)
    for (_, recall), equal in groupby(by_rank, key=lambda index: found[index]):
        if recall > highest:
            front += equal
            highest = recall
    return sorted(front)
