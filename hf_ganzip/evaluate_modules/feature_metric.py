# SPDX-License-Identifier: Apache-2.0
"""Base of our `evaluate` modules: a metric function of features behind ``compute``, ``add_batch`` and ``add``.

A module in ``metrics_hub/`` names its function and its texts. It must subclass
``feature_metric.FeatureMetric`` through this module, not import the class: `evaluate` takes the first module
class that it finds in the file.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from PIL import Image

from ..evaluation.extractors import extract_features
from ..images import pil_to_array, stack_images
from ..metrics import METRICS
from .process_exchange import ProcessExchange


_SIDES = ("predictions", "references")
_ALLOWED = "features (n, d), one vector per row, images uint8 (n, C, H, W) and lists or columns of PIL images"


class FeatureMetric(evaluate.Metric):
    """Keeps what is added, so that the two sides may differ in size, and calls ``function`` when computed.

    Features are not copied unless they come in several batches, and never pass through Arrow files.
    """

    function: Callable[..., dict[str, Any]]
    description: str
    citation: str
    inputs_description: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[str, list[Any]] = {side: [] for side in _SIDES}
        self._others: ProcessExchange | None = None
        if self.num_process > 1:
            place = (self.data_dir, self.experiment_id, self.process_id, self.num_process)
            self._others = ProcessExchange(*place, timeout=self.timeout)

    def _build_data_dir(self) -> str:
        """Where processes exchange features, made when they do: one process writes nothing."""
        return os.path.join(self._data_dir_root, self.name, self.config_name)

    def _info(self) -> evaluate.MetricInfo:
        vectors = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description=self.inputs_description,
            features=datasets.Features(dict.fromkeys(_SIDES, vectors)),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add features (n, d), or images for a ``feature_extractor``, of one side or of both; the counts may differ."""
        self._refuse("add_batch", kwargs, "predictions and references")
        given = {"predictions": predictions, "references": references}
        batches = {side: _as_array(side, values) for side, values in given.items() if values is not None}
        if batches and self._others is not None:
            self._others.join()
        for side, batch in batches.items():
            if len(batch):
                self._held[side].append(batch)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add a feature vector (d,) or image; `evaluate.combine` says ``predictions`` and ``references``."""
        given = {"predictions": prediction, "references": reference}
        self._refuse("add", kwargs.keys() - given, "prediction and reference")
        one = {
            side: [x] if isinstance(x, Image.Image) else np.asarray(x)[None]
            for side, x in (given | kwargs).items()
            if x is not None
        }
        self.add_batch(**one)

    def _refuse(self, where: str, unknown: Collection[str], allowed: str) -> None:
        if unknown:
            raise TypeError(
                f"{self.name}.{where} has no argument {', '.join(sorted(unknown))}; allowed are {allowed}."
            )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Compute over what all processes added, and start anew; None on processes other than the first."""
        self.add_batch(predictions=predictions, references=references)
        held, self._held = self._held, {side: [] for side in _SIDES}
        sides = {side: _joined(batches) for side, batches in held.items() if batches}
        if self._others is not None:
            extractor = kwargs.pop("feature_extractor", None)
            gathered = self._others.gather(
                {side: torch.as_tensor(x) for side, x in _features(sides, extractor).items()}
            )
            if gathered is None:
                return None
            sides = {side: _joined([state[side] for state in gathered if side in state]) for side in _SIDES}
        if missing := [side for side in _SIDES if not len(sides.get(side, ()))]:
            raise ValueError(f"no {' and no '.join(missing)} were given; pass them to compute or add_batch.")
        return self._compute(**sides, **kwargs)

    def _compute(self, predictions, references, feature_extractor=None, **options):
        """Values for features, or images and an extractor; options for other metrics of a combination are ignored."""
        accepted = _options_of(type(self).function)
        known = accepted.union(*map(_options_of, METRICS.values()))
        if unknown := ", ".join(sorted(set(options) - known)):
            raise TypeError(f"{self.name} has no option {unknown}; allowed are {', '.join(sorted(accepted))}.")
        sides = _features({"predictions": predictions, "references": references}, feature_extractor)
        chosen = {name: value for name, value in options.items() if name in accepted}
        try:
            return type(self).function(real=sides["references"], generated=sides["predictions"], **chosen)
        except (TypeError, ValueError) as error:
            raise type(error)(_in_words_of_evaluate(str(error))) from error


def _options_of(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"real", "generated"}


def _in_words_of_evaluate(message: str) -> str:
    """A message about ``real`` and ``generated`` for somebody who typed ``references`` and ``predictions``."""
    for ours, theirs in (("real(?! numbers)", "references"), ("generated", "predictions")):
        message = re.sub(rf"\b{ours}\b", theirs, message)
    return message


def _as_array(side: str, values: Any) -> Any:
    """Features (n, d) or images (n, C, H, W) as an array or tensor, or a list of PIL images."""
    if not isinstance(values, (list, tuple, np.ndarray, torch.Tensor)) and hasattr(values, "__getitem__"):
        if isinstance(getattr(values, "column_names", None), list):
            raise ValueError(f"{side} is a whole dataset; name the column: {side}=ds[{values.column_names[0]!r}].")
        values = values[:]  # a column of `datasets`
    if isinstance(values, (list, tuple)) and len(values) and isinstance(values[0], Image.Image):
        return list(values)
    if isinstance(values, list) and values and isinstance(values[0], torch.Tensor):
        values = torch.stack(values)
    array = values if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim not in (2, 4) and array.shape != (0,):
        raise ValueError(f"{side} has shape {tuple(array.shape)}; allowed are {_ALLOWED}.")
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) and array.dtype != torch.bfloat16 else array


def _joined(batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    if any(isinstance(batch, list) for batch in batches):
        return [image for batch in batches for image in batch]
    if any(isinstance(batch, torch.Tensor) for batch in batches):
        return torch.cat([torch.as_tensor(batch) for batch in batches])
    return np.concatenate(batches)


def _features(sides: dict[str, Any], extractor: Any) -> dict[str, Any]:
    """Features (n, d) of each side, of images by the extractor."""
    if extractor is not None:
        return {side: extract_features(_as_images(side, x), extractor) for side, x in sides.items()}
    for side, x in sides.items():
        if isinstance(x, list) or x.ndim == 4:
            what = f"{len(x)} PIL images" if isinstance(x, list) else f"images of shape {tuple(x.shape)}"
            raise ValueError(
                f'{side} are {what}, and no feature_extractor= was given; pass feature_extractor="fashion_mnist", '
                "another extractor of hf_ganzip or a callable, or features (n, d)."
            )
    return sides


def _as_images(side: str, values: Any) -> torch.Tensor:
    """Images as uint8 (n, C, H, W)."""
    if isinstance(values, list):
        images = [pil_to_array(image, f"{side}, image {i}") for i, image in enumerate(values)]
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"{side} are images of {len(sizes)} different sizes, {sizes[0]} and {sizes[1]} (height, width) among "
                "them; resize them to one."
            )
        return stack_images(images)
    images = torch.as_tensor(values)
    if images.ndim != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"{side} has shape {tuple(images.shape)} and dtype {images.dtype}; with feature_extractor= allowed are "
            "images uint8 (n, C, H, W), C 1 or 3, and lists or columns of PIL images of one size."
        )
    return images
