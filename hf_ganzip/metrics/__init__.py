# SPDX-License-Identifier: Apache-2.0
"""Metrics on features: pure functions of ``real`` and ``generated``, arrays or tensors (N, d), (M, d) on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..core.registry import lookup
from .clipped import clipped_density_coverage
from .frechet import FrechetDistance, frechet_distance
from .gaussian_kernel import GaussianKernelDistance, gaussian_kernel_distance
from .inception_score import InceptionScore, inception_score
from .kernel import KernelDistance, kernel_distance
from .knn import density_coverage, knn_precision_recall
from .lsh import LSHPrecisionRecall, lsh_precision_recall, warn_if_unpaired
from .monge import MongeDistance, monge_distance
from .probabilistic import probabilistic_precision_recall
from .realism import realism_scores
from .vendi import VendiScore, vendi_score


METRICS: dict[str, Callable[..., Any]] = {
    "lsh_precision_recall": lsh_precision_recall,
    "knn_precision_recall": knn_precision_recall,
    "density_coverage": density_coverage,
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "clipped_density_coverage": clipped_density_coverage,
    "probabilistic_precision_recall": probabilistic_precision_recall,
    "vendi_score": vendi_score,
    "monge_distance": monge_distance,
    "gaussian_kernel_distance": gaussian_kernel_distance,
}
OF_LOGITS: dict[str, Callable[..., Any]] = {"inception_score": inception_score}  # of generated images, not of features
ALIASES = {
    "fid": ("frechet_distance",),
    "kid": ("kernel_distance",),
    "fd_dinov2": ("frechet_distance",),
    "cmmd": ("gaussian_kernel_distance",),
    "mind": ("monge_distance",),
    "vendi": ("vendi_score",),
    "clipped": ("clipped_density_coverage",),
    "p_precision": ("probabilistic_precision_recall",),
    "p_recall": ("probabilistic_precision_recall",),
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
    "GaussianKernelDistance",
    "InceptionScore",
    "KernelDistance",
    "MongeDistance",
    "VendiScore",
    "clipped_density_coverage",
    "density_coverage",
    "find_metrics",
    "frechet_distance",
    "gaussian_kernel_distance",
    "inception_score",
    "kernel_distance",
    "knn_precision_recall",
    "lsh_precision_recall",
    "monge_distance",
    "probabilistic_precision_recall",
    "realism_scores",
    "vendi_score",
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
