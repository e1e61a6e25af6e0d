# SPDX-License-Identifier: Apache-2.0
"""What the pipelines share."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..assets import class_names
from ..core.hub import HUB_OPTIONS, MODEL_FILES, model_folder
from ..integration.opening import load_model


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class LocalPipeline(DiffusionPipeline):
    """A pipeline of classes that diffusers finds in local folders only: a Hub id is downloaded first."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline, or a generator alone, from a folder, by a bundled name or from the Hub; the classes of
        bundled generators have names.

        Args:
            pretrained_model_name_or_path: Of the pipeline or of its generator.
            **kwargs: Options of :func:`.model_folder`, and of diffusers' ``from_pretrained`` for the pipeline, or for
                the generator together with arguments of the pipeline's class.
        """
        names = class_names(pretrained_model_name_or_path)
        if names and "class_names" in inspect.signature(cls).parameters:
            kwargs.setdefault("class_names", list(names))
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        path = model_folder(pretrained_model_name_or_path, patterns=[*MODEL_FILES, "*.md"], **options)
        if (path / "model_index.json").is_file() or not (path / "config.json").is_file():
            return super().from_pretrained(path, **kwargs)
        own = {name: kwargs.pop(name) for name in inspect.signature(cls).parameters if name in kwargs}
        return cls(load_model(path, **kwargs), **own)


def check_output_type(output_type: str) -> None:
    """Raise ValueError for an unknown output type."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; allowed are {', '.join(OUTPUT_TYPES)}.")
