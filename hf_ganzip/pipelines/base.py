# SPDX-License-Identifier: Apache-2.0
"""What the pipelines share."""

from __future__ import annotations

from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")


class LocalPipeline(DiffusionPipeline):
    """A pipeline of classes that diffusers finds in local folders only: a Hub id is downloaded first."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load from a folder or the Hub."""
        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
            patterns = ["*.json", "*.safetensors", "*.md"]
            path = snapshot_download(str(pretrained_model_name_or_path), allow_patterns=patterns, **options)
        return super().from_pretrained(path, **kwargs)


def check_output_type(output_type: str) -> None:
    """Raise ValueError for an unknown output type."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; allowed are {', '.join(OUTPUT_TYPES)}.")
