# SPDX-License-Identifier: Apache-2.0
"""Which figures of an evaluation are its results, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .presets import PRESETS


QUALITY = {  # figure -> title
    "frechet_distance": "Frechet distance",
    "precision": "KNN precision",
    "recall": "KNN recall",
    "lsh_precision": "LSH precision",
    "lsh_recall": "LSH recall",
    "lsh_knn_precision": "LSH+KNN precision",
    "lsh_knn_recall": "LSH+KNN recall",
    "density": "density",
    "coverage": "coverage",
    "clipped_density": "clipped density",
    "clipped_coverage": "clipped coverage",
    "probabilistic_precision": "P-precision",
    "probabilistic_recall": "P-recall",
    "vendi_score": "Vendi score",
    "kernel_distance": "kernel distance",
    "monge_distance": "Monge distance",
    "gaussian_kernel_distance": "Gaussian kernel distance",
}


def figures(report: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Metric, name of the figure, its title and its value, of an evaluation as a dict.

    A preset gives its figure its own name ("fid"), METRIC@EXTRACTOR one that ends with "@EXTRACTOR".

    Example:
        >>> figures({"metrics": {"fid": {"frechet_distance": 3.0}, "knn": {"recall": 0.5}}})
        [('fid', 'fid', 'FID', 3.0), ('knn', 'recall', 'KNN recall', 0.5)]
    """
    found = []
    for figure, title in QUALITY.items():
        for metric, values in report["metrics"].items():
            if figure not in values:
                continue
            name, said = figure, title
            if metric in PRESETS:
                name, said = metric, metric.upper().replace("_", "-")
            elif "@" in metric:
                extractor = metric.partition("@")[2]
                name, said = f"{figure}@{extractor}", f"{title} on {extractor}"
            found.append((metric, name, said, values[figure]))
    return found
