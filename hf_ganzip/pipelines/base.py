# SPDX-License-Identifier: Apache-2.0
"""What the pipelines share."""

from __future__ import annotations

from diffusers import DiffusionPipeline

from ..hub import HUB_OPTIONS, MODEL_FILES, model_folder


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class LocalPipeline(DiffusionPipeline):
    """A pipeline of classes that diffusers finds in local folders only: a Hub id is downloaded first."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load from a folder or the Hub, with the options of :func:`.model_folder`."""
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        path = model_folder(pretrained_model_name_or_path, patterns=[*MODEL_FILES, "*.md"], **options)
        return super().from_pretrained(path, **kwargs)


def check_output_type(output_type: str) -> None:
    """Raise ValueError for an unknown output type."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; allowed are {', '.join(OUTPUT_TYPES)}.")
