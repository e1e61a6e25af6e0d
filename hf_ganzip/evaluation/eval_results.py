# SPDX-License-Identifier: Apache-2.0
"""Which figures of an evaluation are its results, what they are called, and the form in which the Hub reads them from a
model's repository: ``.eval_results/*.yaml``.

An entry belongs to a dataset of the Hub, so that only evaluations against one become entries. The Hub shows them on
the model's page and, once the dataset is registered as a benchmark with tasks of these names, in its leaderboard:
https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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


FOLDER, PREFIX = ".eval_results", "hf-ganzip-"


def eval_results(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Path in the repository -> text, one file a dataset, of evaluations as dicts; {} without a dataset of the Hub.

    Figures that are not finite are left out.

    Example:
        >>> conditions = {"reference": "org/images", "reference_dataset": "org/images", "seed": 0}
        >>> conditions |= {"n_generated": 50, "n_real": 60}
        >>> report = {"metrics": {"fid": {"frechet_distance": 3.0}}, "conditions": conditions}
        >>> print(eval_results([report])[".eval_results/hf-ganzip-org-images.yaml"], end="")
        - dataset:
            id: org/images
            task_id: fid
          value: 3.0
          notes: 50 generated, 60 real images; seed 0
    """
    entries: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        dataset = report["conditions"].get("reference_dataset")
        for metric, name, _, value in figures(report) if dataset else ():
            if math.isfinite(value):
                place = f"{FOLDER}/{PREFIX}{re.sub(r'[^A-Za-z0-9_.]+', '-', dataset)}.yaml"
                entry = {"dataset": {"id": dataset, "task_id": name}, "value": value, "notes": _notes(report, metric)}
                entries.setdefault(place, []).append(entry)
    form = {"sort_keys": False, "allow_unicode": True, "width": 1000}
    return {place: yaml.safe_dump(found, **form) for place, found in entries.items()}


def write_eval_results(reports: Sequence[Mapping[str, Any]], folder: str | Path) -> list[Path]:
    """Write the files of :func:`eval_results` into a model's folder, in place of earlier ones; returns their paths."""
    for old in Path(folder, FOLDER).glob(f"{PREFIX}*.yaml"):
        old.unlink()
    written = []
    for place, text in eval_results(reports).items():
        path = Path(folder, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _notes(report: Mapping[str, Any], metric: str) -> str:
    """The conditions that move a figure, in one line."""
    conditions = report["conditions"]
    own = conditions.get("presets", {}).get(metric, conditions)
    said = [f"{conditions['n_generated']} generated, {conditions['n_real']} real images"]
    said += [f"split {conditions['reference_split']}"] if conditions.get("reference_split") else []
    said += [f"features of {own['extractor']}"] if own.get("extractor") else []
    options = conditions.get("metric_options", {}).get(metric, {}).items()
    said += [f"{name} {value}" for name, value in options if name != "seed"]
    said += [f"seed {conditions['seed']}"]
    version = (conditions.get("versions") or {}).get("hf_ganzip")
    return "; ".join(said + ([f"hf_ganzip {version}"] if version else []))
