# SPDX-License-Identifier: Apache-2.0
"""Metrics on features, as pure functions of ``real`` and ``generated``: arrays or tensors (N, d) and (M, d) on any device."""

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

__all__ = [
    "METRICS",
    "LSHPrecisionRecall",
    "FrechetDistance",
    "InceptionScore",
    "KernelDistance",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "knn_precision_recall",
    "lsh_precision_recall",
    "realism_scores",
    "warn_if_unpaired",
]
