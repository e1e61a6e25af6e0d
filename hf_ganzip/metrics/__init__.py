# SPDX-License-Identifier: Apache-2.0
"""Metrics on features, as pure functions of ``real`` and ``generated``: arrays or tensors (N, d) and (M, d) on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..registry import lookup
from .frechet import FrechetDistance, frechet_distance
from .inception_score import InceptionScore, inception_score
from .kernel import KernelDistance, kernel_distance
from .knn import density_coverage, knn_precision_recall
from .lsh import LSHPrecisionRecall, lsh_precision_recall, warn_if_unpaired
from .realism import realism_scores


METRICS = {
    "lsh_precision_recall": lsh_precision_recall,
    "knn_precision_recall": knn_precision_recall,
    "density_coverage": density_coverage,
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
}
OF_LOGITS = {"inception_score": inception_score}  # functions of the logits of generated images, not of features
ALIASES = {
    "fid": ("frechet_distance",),
    "kid": ("kernel_distance",),
    "is": ("inception_score",),
    "isc": ("inception_score",),
    "lsh": ("lsh_precision_recall",),
    "knn": ("knn_precision_recall",),
    "prc": ("knn_precision_recall",),
    "precision": ("knn_precision_recall",),
    "recall": ("knn_precision_recall",),
    "density": ("density_coverage",),
    "coverage": ("density_coverage",),
    "prdc": ("knn_precision_recall", "density_coverage"),
}

__all__ = [
    "ALIASES",
    "METRICS",
    "OF_LOGITS",
    "LSHPrecisionRecall",
    "FrechetDistance",
    "InceptionScore",
    "KernelDistance",
    "density_coverage",
    "find_metrics",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "knn_precision_recall",
    "lsh_precision_recall",
    "realism_scores",
    "warn_if_unpaired",
]


def find_metrics(metrics: Iterable[str | Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Metrics by name: each once, in their order.

    Args:
        metrics: Names in ``METRICS``, ``OF_LOGITS`` or ``ALIASES``, in small or capital letters, or functions.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> list(find_metrics(["FID", "prdc", "precision"]))
        ['frechet_distance', 'knn_precision_recall', 'density_coverage']
    """
    known = METRICS | OF_LOGITS
    found: dict[str, Callable[..., Any]] = {}
    for metric in metrics:
        if not isinstance(metric, str):
            found[metric.__name__] = metric
            continue
        name = metric if metric in known else metric.lower()
        lookup(known | ALIASES, name, "metric")
        found |= {each: known[each] for each in ALIASES.get(name, (name,))}
    return found
