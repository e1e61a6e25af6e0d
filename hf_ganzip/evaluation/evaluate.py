# SPDX-License-Identifier: Apache-2.0
"""Measure generated images against reference images: metrics together with every condition that moves them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..assets import resolve
from ..core.record import versions
from ..core.reports import Report, conditions_table
from ..metrics import METRICS, OF_LOGITS, find_metrics
from .extractors import check_extractor, default_extractor, extract_features, load_extractor, load_logits
from .presets import features_by, find_measured
from .sampling import sample_images, sampling_conditions
from .sources import Source, common_digest, images_of, open_source
from .streams import conditions_of_images, squares


DEFAULT_METRICS = ("lsh_precision_recall", "knn_precision_recall", "frechet_distance")
_SAMPLING = {"truncation_psi": 1.0, "steps": 50, "clip_sample": False}  # what only a generator can be told
_RUN = {"batch_size": None, "progress": True, "cache": None, "resolution": None, "device": None, "split": "test"}
FAULTS = (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError, OSError, ImportError)  # of one metric
_INPUTS = {"real", "generated", "logits"}


@dataclass(frozen=True, repr=False)
class EvaluationReport(Report):
    """Metrics of one model.

    Args:
        metrics: Metric name -> what that metric returns.
        conditions: Number of images, seed, extractor and its digest, resize path, how the model was sampled, versions.
        failures: Metric that could not be computed -> why.
    """

    metrics: dict[str, dict[str, float]]
    conditions: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)

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
            for name, value in values.items():
                lines.append(f"  {name:22} {f'{value:.4f}' if isinstance(value, float) else value}")
        lines += [f"{metric}: not computed: {reason}" for metric, reason in self.failures.items()]
        known = {name: value for name, value in self.conditions.items() if value is not None}
        lines += ["conditions:"] + [f"  {name:22} {value}" for name, value in known.items()]
        return "\n".join(lines)


def _digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metrics_of_features(metrics: Sequence[str | Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """:func:`.find_metrics` without those of logits.

    Raises:
        ValueError: An unknown metric, or one of logits.
    """
    found = find_metrics(metrics)
    if of_logits := sorted(found.keys() & OF_LOGITS.keys()):
        raise ValueError(
            f"{', '.join(of_logits)} is no metric of features but of the logits of images; gz.evaluate computes it."
        )
    return found


def measure(
    *,
    real: Tensor,
    generated: Tensor,
    metrics: Sequence[str | Callable[..., Any]] = DEFAULT_METRICS,
    seed: int = 0,
    metric_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Run metrics on features ``real`` (N, d) and ``generated`` (M, d).

    Args:
        real: Features of real images.
        generated: Features of generated images.
        metrics: Names as for :func:`.find_metrics` or functions ``(real=, generated=) -> dict``.
        seed: For the metrics that draw hyperplanes.
        metric_options: Option name -> value, such as ``k`` or ``draws``; every metric gets those that it knows.
            "METRIC.NAME" is for one metric only.

    Raises:
        ValueError: An unknown metric, one of logits, or an option that none of the metrics has.
    """
    found = metrics_of_features(metrics)
    chosen = options_by_metric(found, metric_options or {}, seed)
    return {name: metric(real=real, generated=generated, **chosen[name]) for name, metric in found.items()}


def options_by_metric(
    metrics: Mapping[str, Callable[..., Any]], options: Mapping[str, Any], seed: int
) -> dict[str, dict[str, Any]]:
    """What each metric gets of the options, and of the seed.

    Raises:
        ValueError: An option that none of the metrics has.
    """
    known = {name: inspect.signature(metric).parameters.keys() - _INPUTS for name, metric in metrics.items()}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in metrics}
    for key in sorted(options, key=lambda key: "." in key):  # those of one metric come last and win
        owner, dot, option = key.rpartition(".")
        owners = [owner] if owner in metrics else find_metrics([owner]) if dot else metrics
        takers = [name for name in owners if option in known.get(name, ())]
        if not takers:
            listed = "; ".join(f"{name}: {', '.join(sorted(known[name])) or 'none'}" for name in metrics)
            raise ValueError(f"none of the metrics {', '.join(metrics)} has the option {key}; allowed are {listed}.")
        for name in takers:
            chosen[name][option] = options[key]
    for name, metric in metrics.items():
        if metric is METRICS["lsh_precision_recall"]:
            chosen[name] = {"seed": seed} | chosen[name]
    return chosen


def _effective(metric: Callable[..., Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a metric with its defaults, as far as they are plain values."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(metric).parameters.items()}
    return {name: value for name, value in (defaults | dict(chosen)).items() if isinstance(value, (str, int, float))}


def _compute(
    metrics: Mapping[str, Callable[..., Any]],
    chosen: Mapping[str, Mapping[str, Any]],
    inputs: Callable[[str], Mapping[str, Any]],
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Results of the metrics that can be computed, and why the others cannot.

    Raises:
        ValueError: None can be; of a single metric, or a fault of all, the fault itself.
    """
    results: dict[str, dict[str, float]] = {}
    faults: dict[str, Exception] = {}
    for name, metric in metrics.items():
        try:
            results[name] = metric(**inputs(name), **chosen[name])
        except FAULTS as error:
            faults[name] = error
    reasons = {name: " ".join(str(error).split()).removeprefix(f"{name}: ") for name, error in faults.items()}
    if faults and not results:
        if len(set(reasons.values())) == 1:
            raise next(iter(faults.values()))
        raise ValueError("no metric could be computed. " + " ".join(f"{name}: {why}" for name, why in reasons.items()))
    return results, reasons


@dataclass
class _Inputs:
    """Called with the name of a metric, gives what it computes from: features of both sides, or logits."""

    sides: dict[str, Source]
    images: dict[str, Any]
    features: dict[str, Any]  # by the extractor of the evaluation
    own: Mapping[str, str]  # metric -> the extractor that belongs to it
    extractor: Any
    device: Any
    extracting: dict[str, Any]
    made: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = field(default_factory=dict)  # by the extractors of own

    def __call__(self, metric: str) -> dict[str, Any]:
        if metric in self.own:
            name = self.own[metric]
            self.made[name] = self.made.get(name) or features_by(name, self.images, self.device, self.extracting)
            return self.made[name][0]
        if metric not in OF_LOGITS:
            return self.features
        generated = self.images["generated"]
        if generated is None:
            raise ValueError(f"logits of images are needed; {self.sides['generated'].name} holds features.")
        return {"logits": extract_features(generated, load_logits(self.extractor, self.device), **self.extracting)}


def evaluate(
    generated: Any,
    reference: Any,
    *,
    metrics: str | Sequence[str | Callable[..., Any]] = DEFAULT_METRICS,
    num_samples: int = 5000,
    seed: int = 0,
    extractor: Any = None,
    options: Mapping[str, Any] | None = None,
) -> EvaluationReport:
    """Compare generated images, or those of a generator, with reference images.

    Images of files may have any sizes: the extractor resizes each by its own path, the report's ``resize``.

    Args:
        generated: GAN generator or diffusion UNet, which is sampled, or images or features as :func:`.open_source`
            finds them.
        reference: Real images or features, as :func:`.open_source` finds them.
        metrics: Names as for :func:`.find_metrics`, functions ``(real=, generated=) -> dict``, or metrics
            with the features on which they are defined: the names of :data:`.PRESETS` ("fid", "kid", "mind",
            "fd_dinov2", "cmmd") and "METRIC@EXTRACTOR", as in "frechet_distance@clip". With ``extractor``
            given, or features on both sides, "fid" and its like are their metrics on those.
        num_samples: Number of images that a generator is asked for.
        seed: Seed of the images and of the hyperplanes.
        extractor: As for :func:`.load_extractor`; not used where both sides are features. None: that of
            :func:`.default_extractor`.
        options: Of :func:`.sample_images`: ``truncation_psi``, ``steps``, ``clip_sample``. ``batch_size`` (None: 100
            in sampling, 256 in extraction); ``progress``; ``device`` of the extractor and of a model that is loaded
            here (None: CPU); ``split`` of `datasets` ids and of folders that have one ("test"); ``resolution``, to
            which :func:`.square_image` resizes the images of both sides; ``cache``, a :class:`.FeatureCache` (None:
            features are not kept). All others, such as ``k``, ``draws`` or ``num_hyperplanes``, go to the metrics that
            know them, "METRIC.NAME" to one metric.

    Returns:
        Report with metrics and conditions, and why metrics are missing that could not be computed.

    Raises:
        TypeError: A side is no model, tensor, array or name.
        ValueError: An unknown metric, extractor or option, an option of models for what is none, images that cannot be
            read or that the extractor refuses, features of another extractor, or none of the metrics can be computed.
    """
    given = _RUN | _SAMPLING | dict(options or {})
    run, sampling = ({name: given.pop(name) for name in names} for names in (_RUN, _SAMPLING))
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    found, own = find_measured(wanted, presets=extractor is None)
    chosen = options_by_metric(found, given, seed)  # before the long work
    check_extractor(extractor)
    sides = _open_sides(generated, reference, run, sampling)
    if own and all(side.features is not None for side in sides.values()):
        found, own = find_measured(wanted, presets=False)
        chosen = options_by_metric(found, given, seed)
    images: dict[str, Any] = {where: images_of(side, run["resolution"]) for where, side in sides.items()}
    extract = None
    if found.keys() - OF_LOGITS.keys() - own.keys() and any(side.features is None for side in sides.values()):
        extractor = default_extractor(images.values()) if extractor is None else extractor
        extract = load_extractor(extractor, run["device"])
    digest = common_digest(sides, getattr(extract, "digest", None))
    model = sides["generated"].model
    if model is not None:
        drawing = {"seed": seed, "batch_size": run["batch_size"] or 100, "progress": run["progress"]}
        drawn, _ = sample_images(model, num_samples, **drawing, **sampling)
        images["generated"] = squares(drawn, run["resolution"])
    extracting = {"batch_size": run["batch_size"] or 256, "progress": run["progress"], "cache": run["cache"]}
    features: dict[str, Any] = {where: side.features for where, side in sides.items()}
    for where in sides:
        if extract is not None and features[where] is None:
            features[where] = extract_features(images[where], extract, **extracting)

    inputs = _Inputs(sides, images, features, own, extractor, run["device"], extracting)
    results, failures = _compute(found, chosen, inputs)
    counts = {where: len(images[where] if features[where] is None else features[where]) for where in sides}
    conditions = {
        "reference": sides["real"].name,
        **_dataset(reference, run["split"]),
        "generated": sides["generated"].name,
        "n_real": counts["real"],
        "n_generated": counts["generated"],
        "seed": seed,
        **({} if model is None else sampling_conditions(model, **sampling)),
        "extractor": getattr(extract, "name", type(extract).__name__) if extract else _no_extractor(features),
        "extractor_digest": digest,
        "resize": getattr(extract, "resize", None),
        **({"presets": {name: inputs.made[own[name]][1] for name in results if name in own}} if own else {}),
        **conditions_of_images(images, run["resolution"]),
        "metric_options": {name: _effective(metric, chosen[name]) for name, metric in found.items()},
        "versions": versions(),
    }
    return EvaluationReport(results, conditions, failures)


def _dataset(reference: Any, split: str) -> dict[str, str]:
    """Id on the Hub of a reference that is neither here nor bundled."""
    on_hub = isinstance(reference, str) and reference.count("/") == 1 and not Path(resolve(reference)).exists()
    return {"reference_dataset": reference, "reference_split": split} if on_hub else {}


def _open_sides(generated: Any, reference: Any, run: dict[str, Any], sampling: Mapping[str, Any]) -> dict[str, Source]:
    """Both sides, checked; a model that is loaded here is moved to the device."""
    try:
        run["device"] = torch.empty(0, device=run["device"] or "cpu").device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the kind of device
        raise ValueError(f"device is {run['device']!r}, which torch does not have here: {error}") from error
    opening = {"split": run["split"], "streamed": True, "progress": run["progress"]}
    sides = {"real": open_source(reference, **opening), "generated": open_source(generated, **opening)}
    if sides["real"].model is not None:
        raise ValueError(f"reference {sides['real'].name} is a model; allowed are images and features of real images.")
    model = sides["generated"].model
    for name, value in sampling.items():
        if model is None and value != _SAMPLING[name]:
            raise ValueError(f"{name} is for models; {sides['generated'].name} is none.")
    for side in sides.values():
        if run["resolution"] is not None and side.features is not None:
            raise ValueError(f"resolution is for images; {side.name} holds features.")
    if model is not None and not isinstance(generated, ModelMixin):
        model.to(run["device"])
    return sides


def _no_extractor(features: Mapping[str, Tensor | None]) -> str | None:
    return None if any(each is None for each in features.values()) else "features as given"
