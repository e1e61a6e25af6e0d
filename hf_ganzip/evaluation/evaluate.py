# SPDX-License-Identifier: Apache-2.0
"""Measure generated images against reference images: metrics together with every condition that moves them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..metrics import METRICS
from ..record import versions
from ..registry import lookup
from ..reports import Report, conditions_table
from .extractors import extract_features, load_extractor
from .sampling import sample_images, sampling_conditions
from .sources import Source, open_source


DEFAULT_METRICS = ("lsh_precision_recall", "knn_precision_recall", "frechet_distance")
_SAMPLING = {"truncation_psi": 1.0, "steps": 50, "clip_sample": False}  # what only a generator can be told


@dataclass(frozen=True, repr=False)
class EvaluationReport(Report):
    """Metrics of one model.

    Args:
        metrics: Metric name -> what that metric returns.
        conditions: Number of images, seed, extractor and its digest, resize path, how the model was sampled, versions.
    """

    metrics: dict[str, dict[str, float]]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

    def facts(self) -> dict[str, str]:
        measured = {
            row["figure"]: _digits(row["value"])
            for row in self.rows()
            if isinstance(row["value"], float) and not row["figure"].endswith("_std")
        }
        compared = {name: self.conditions.get(name) for name in ("generated", "reference", "extractor")}
        return measured | {name: str(value) for name, value in compared.items() if value is not None}

    def rows(self) -> list[dict[str, Any]]:
        """One for every figure of every metric, among them those that are conditions of the metric, such as ``k``."""
        return [
            {"metric": metric, "figure": figure, "value": value}
            for metric, values in self.metrics.items()
            for figure, value in values.items()
        ]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        figures = [(row["metric"], row["figure"], _digits(row["value"])) for row in self.rows()]
        return {"figures": [("metric", "figure", "value"), *figures], "conditions": conditions_table(self.conditions)}

    def __str__(self) -> str:
        lines = []
        for metric, values in self.metrics.items():
            lines.append(f"{metric}:")
            lines += [
                f"  {name:22} {f'{value:.4f}' if isinstance(value, float) else value}"
                for name, value in values.items()
            ]
        lines += ["conditions:"] + [f"  {name:22} {value}" for name, value in self.conditions.items()]
        return "\n".join(lines)


def _digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measure(
    *,
    real: Tensor,
    generated: Tensor,
    metrics: Sequence[str | Callable] = DEFAULT_METRICS,
    seed: int = 0,
    metric_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Run metrics on features ``real`` (N, d) and ``generated`` (M, d).

    Args:
        real: Features of real images.
        generated: Features of generated images.
        metrics: Names in ``METRICS`` or functions ``(real=, generated=) -> dict``.
        seed: For the metrics that draw hyperplanes.
        metric_options: Option name -> value, such as ``k`` or ``draws``; every metric gets those that it knows. "METRIC.NAME" is for one metric only.

    Raises:
        ValueError: An unknown metric, or an option that none of the metrics has.
    """
    found = _named(metrics)
    chosen = _options_by_metric(found, metric_options or {}, seed)
    return {name: metric(real=real, generated=generated, **chosen[name]) for name, metric in found.items()}


def _named(metrics: Sequence[str | Callable]) -> dict[str, Callable]:
    return {
        metric if isinstance(metric, str) else metric.__name__: lookup(METRICS, metric, "metric") for metric in metrics
    }


def _options_by_metric(
    metrics: Mapping[str, Callable], options: Mapping[str, Any], seed: int
) -> dict[str, dict[str, Any]]:
    """What each metric gets of the options, and of the seed; every option must be known to one."""
    chosen: dict[str, dict[str, Any]] = {}
    used = set()
    for name, metric in metrics.items():
        known = inspect.signature(metric).parameters.keys() - {"real", "generated"}
        general = {option: option for option in options if option in known}
        own = {f"{name}.{option}": option for option in known if f"{name}.{option}" in options}
        chosen[name] = {option: options[key] for key, option in (general | own).items()}
        used |= general.keys() | own.keys()
    unused = sorted(set(options) - used)
    if unused:
        raise ValueError(f"none of the metrics {', '.join(metrics)} has the option {', '.join(unused)}.")
    if "lsh_precision_recall" in chosen:
        chosen["lsh_precision_recall"] = {"seed": seed} | chosen["lsh_precision_recall"]
    return chosen


def _effective(metric: Callable, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a metric with its defaults, as far as they are plain values."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(metric).parameters.items()}
    return {name: value for name, value in (defaults | dict(chosen)).items() if isinstance(value, (str, int, float))}


def evaluate(
    generated: Any,
    reference: Any,
    *,
    metrics: Sequence[str | Callable] = DEFAULT_METRICS,
    num_samples: int = 5000,
    seed: int = 0,
    extractor: Any = "fashion_mnist",
    options: Mapping[str, Any] | None = None,
) -> EvaluationReport:
    """Compare generated images, or those of a generator, with reference images.

    Args:
        generated: GAN generator or diffusion UNet, which is sampled, or images or features as :func:`.open_source` finds them.
        reference: Real images or features, as :func:`.open_source` finds them.
        metrics: Names in ``METRICS`` or functions ``(real=, generated=) -> dict``.
        num_samples: Number of images that a generator is asked for.
        seed: Seed of the images and of the hyperplanes.
        extractor: As for :func:`.load_extractor`; not used where both sides are features.
        options: For :func:`.sample_images`: ``truncation_psi``, ``steps``, ``clip_sample``, ``batch_size``, ``progress``; ``cache``, a
            :class:`.FeatureCache` (None: features are not kept); all others, such as ``k``, ``draws`` or ``num_hyperplanes``, go to the metrics
            that know them, "METRIC.NAME" to one metric.

    Returns:
        Report with metrics and conditions.

    Raises:
        TypeError: A side is no model, tensor, array or name.
        ValueError: An unknown metric, extractor or option, an option of models for what is none, images that the extractor refuses, features of
            another extractor.
    """
    given = {"batch_size": 100, "progress": True, "cache": None} | _SAMPLING | dict(options or {})
    batch_size, progress, cache = (given.pop(name) for name in ("batch_size", "progress", "cache"))
    sampling = {name: given.pop(name) for name in _SAMPLING}
    chosen = _options_by_metric(_named(metrics), given, seed)  # before the long work
    sides = {"real": open_source(reference), "generated": open_source(generated)}
    if sides["real"].model is not None:
        raise ValueError(f"reference {sides['real'].name} is a model; allowed are images and features of real images.")
    model = sides["generated"].model
    for name, value in sampling.items():
        if model is None and value != _SAMPLING[name]:
            raise ValueError(f"{name} is for models; {sides['generated'].name} is none.")
    extract = None
    if any(side.features is None for side in sides.values()):
        extract = load_extractor(extractor)
    digest = _common_digest(sides, getattr(extract, "digest", None))
    features = {}
    for where, side in sides.items():
        images = side.images
        if side.model is not None:
            images, _ = sample_images(
                side.model, num_samples, seed=seed, batch_size=batch_size, progress=progress, **sampling
            )
        features[where] = side.features
        if images is not None:
            features[where] = extract_features(images, extract, progress=progress, cache=cache)
    conditions = {
        "reference": sides["real"].name,
        "generated": sides["generated"].name,
        "n_real": len(features["real"]),
        "n_generated": len(features["generated"]),
        "seed": seed,
        **({} if model is None else sampling_conditions(model, **sampling)),
        "extractor": getattr(extract, "name", type(extract).__name__) if extract else "features as given",
        "extractor_digest": digest,
        "resize": getattr(extract, "resize", None),
        "metric_options": {name: _effective(metric, chosen[name]) for name, metric in _named(metrics).items()},
        "versions": versions(),
    }
    return EvaluationReport(measure(**features, metrics=metrics, seed=seed, metric_options=given), conditions)


def _common_digest(sides: Mapping[str, Source], digest: str | None) -> str | None:
    """Digest of the extractor of both sides, as far as it is known; ``digest`` is that of the one that is used here.

    Raises:
        ValueError: There are two.
    """
    for side in sides.values():
        if digest and side.extractor_digest not in (None, digest):
            raise ValueError(
                f"{side.name} holds features of another extractor (digest {side.extractor_digest[:12]}, here {digest[:12]}); "
                "extract both sides with one."
            )
    digests = sorted({side.extractor_digest for side in sides.values()} - {None})
    if len(digests) > 1:
        raise ValueError(
            f"the two feature files come from different extractors: {', '.join(d[:12] for d in digests)}."
        )
    return digest or next(iter(digests), None)
