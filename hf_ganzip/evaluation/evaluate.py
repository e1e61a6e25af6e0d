# SPDX-License-Identifier: Apache-2.0
"""Measure a generator against reference images: metrics together with every condition that moves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from torch import Tensor

from ..metrics import METRICS
from ..record import versions
from ..registry import lookup
from .extractors import EXTRACTORS, extract_features
from .reference import load_reference
from .sampling import sample_images


DEFAULT_METRICS = ("lsh_precision_recall", "knn_precision_recall", "frechet_distance")


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of one model.

    Args:
        metrics: Metric name -> what that metric returns.
        conditions: Number of images, seed, extractor and its digest, resize path, truncation, versions.
    """

    metrics: dict[str, dict[str, float]]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for metric, values in self.metrics.items():
            lines += [f"{metric}:"] + [
                f"  {name:22} {value:.4f}" for name, value in values.items() if isinstance(value, float)
            ]
        lines += ["conditions:"] + [f"  {name:22} {value}" for name, value in self.conditions.items()]
        return "\n".join(lines)


def measure(
    *, real: Tensor, generated: Tensor, metrics: Sequence[str | Callable] = DEFAULT_METRICS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Run metrics on features ``real`` (N, d) and ``generated`` (M, d); ``seed`` goes to those that draw hyperplanes."""
    found = {
        metric if isinstance(metric, str) else metric.__name__: lookup(METRICS, metric, "metric") for metric in metrics
    }
    results = {}
    for name, metric in found.items():
        options = {"seed": seed} if name == "lsh_precision_recall" else {}
        results[name] = metric(real=real, generated=generated, **options)
    return results


def evaluate(
    model: ModelMixin,
    reference: str | Path | Tensor,
    *,
    metrics: Sequence[str | Callable] = DEFAULT_METRICS,
    num_samples: int = 5000,
    seed: int = 0,
    extractor: Any = "fashion_mnist",
    options: Mapping[str, Any] | None = None,
) -> EvaluationReport:
    """Sample a generator and compare its images with reference images.

    Args:
        model: GAN generator.
        reference: Name of a bundled set, folder of images, parquet file, `datasets` id, or images (N, C, H, W) uint8.
        metrics: Names in ``METRICS`` or functions ``(real=, generated=) -> dict``.
        num_samples: Number of generated images.
        seed: Seed of the images and of the hyperplanes.
        extractor: Name in ``EXTRACTORS`` or a callable from uint8 images (B, C, H, W) to features (B, d).
        options: ``truncation_psi``, ``batch_size``, ``progress`` for :func:`.sample_images`.

    Returns:
        Report with metrics and conditions.

    Raises:
        ValueError: An unknown metric or extractor, or images that the extractor refuses.
    """
    for metric in metrics:
        lookup(METRICS, metric, "metric")
    options = {"truncation_psi": 1.0, "batch_size": 100, "progress": True} | dict(options or {})
    extract = lookup(EXTRACTORS, extractor, "extractor")
    extract = extract() if isinstance(extractor, str) else extract
    real = reference if isinstance(reference, Tensor) else load_reference(reference)[0]
    generated, _ = sample_images(model, num_samples, seed=seed, **options)
    features = {
        name: extract_features(images, extract, progress=options["progress"])
        for name, images in (("real", real), ("generated", generated))
    }
    conditions = {
        "model": type(model).__name__,
        "reference": "tensor" if isinstance(reference, Tensor) else str(reference),
        "n_real": len(real),
        "n_generated": num_samples,
        "seed": seed,
        "truncation_psi": options["truncation_psi"],
        "extractor": getattr(extract, "name", type(extract).__name__),
        "extractor_digest": getattr(extract, "digest", None),
        "resize": getattr(extract, "resize", None),
        "versions": versions(),
    }
    return EvaluationReport(measure(**features, metrics=metrics, seed=seed), conditions)
