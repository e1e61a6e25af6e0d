# SPDX-License-Identifier: Apache-2.0
"""Figures of a model during its training: reference features once, then a few thousand samples each time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from diffusers import ModelMixin

from ..images import resize_image
from .evaluate import measure, metrics_of_features, options_by_metric
from .extractors import extract_features, load_extractor
from .perceptual import structural_similarity
from .sampling import sample_images
from .sources import images_of, open_source


VALIDATION_METRICS = ("frechet_distance", "knn_precision_recall", "lsh_precision_recall")
_CONDITIONS = {"centered", "n_real", "n_generated", "dim"}  # that metrics report besides their options


class Validator:
    """Called with a model, gives the numbers of every metric as a flat dict, but for spreads (``_std``) and conditions.

    Args:
        reference: Real images, as :func:`.open_source` finds them.
        resolution: Side of the training images; those of ``reference`` are brought to it as these are: larger ones
            cropped and resized, smaller ones centred on black. None keeps theirs.
        metrics: Names as for :func:`.find_metrics` or functions ``(real=, generated=) -> dict``, of features.
        num_samples: Images that the model is asked for, the same latents each time.
        seed: Of latents and hyperplanes.
        extractor: As for :func:`.load_extractor`.
        options: For the metrics, such as ``k``.
        steps: Of DDIM, for diffusion models.
        clip_sample: For diffusion models, see :func:`.sample_diffusion`.
        dense: Model before compression; with it, ``ssim`` is the structural similarity to its images from the same
            noise.

    Raises:
        ValueError: An unknown metric, an option that none has, or the reference holds no images; when called, a metric
            that gives no figure, or one of a name that another metric gave.
    """

    def __init__(
        self,
        reference: Any,
        *,
        resolution: int | None = None,
        metrics: Sequence[str | Callable] = VALIDATION_METRICS,
        num_samples: int = 2500,
        seed: int = 0,
        extractor: Any = "fashion_mnist",
        options: dict[str, Any] | None = None,
        steps: int = 50,
        clip_sample: bool = False,
        dense: ModelMixin | None = None,
    ):
        found = metrics_of_features(metrics)
        options_by_metric(found, options or {}, seed)
        self._conditions = {
            name: _CONDITIONS.union(inspect.signature(metric).parameters) for name, metric in found.items()
        }
        source = open_source(reference, streamed=True)
        images = images_of(source, resolution, resize_image)
        if images is None:
            raise ValueError(f"validation: {source.name} holds no images.")
        self.extract: Callable = load_extractor(extractor)
        self.metrics, self.options = metrics, options or {}
        self.sampling = {"num_samples": num_samples, "seed": seed, "steps": steps, "clip_sample": clip_sample}
        self.sampling["progress"] = False
        self.real = extract_features(images, self.extract, progress=False)
        self.dense = None if dense is None else sample_images(dense, **self.sampling)[0]

    def __call__(self, model: ModelMixin) -> dict[str, float]:
        images, _ = sample_images(model, **self.sampling)
        generated = extract_features(images, self.extract, progress=False)
        run = {"metrics": self.metrics, "seed": self.sampling["seed"], "metric_options": self.options}
        found = measure(real=self.real, generated=generated, **run)
        figures = _flat(found, self._conditions)
        if self.dense is not None:
            figures["ssim"] = structural_similarity(real=self.dense, generated=images)["structural_similarity"]
        return figures


def _flat(found: Mapping[str, Mapping[str, Any]], conditions: Mapping[str, set[str]]) -> dict[str, float]:
    """The figures of all metrics; ``conditions`` names, for each, what is none."""
    figures: dict[str, float] = {}
    for metric, values in found.items():
        own = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, Real) and not name.endswith("_std") and name not in conditions[metric]
        }
        if not own or own.keys() & figures.keys():
            fault = f"gave {', '.join(own)} as another metric did" if own else f"gave no figure, only {list(values)}"
            raise ValueError(
                f"validation: {metric} {fault}; allowed are metrics that return numbers of names of their own."
            )
        figures |= own
    return figures
