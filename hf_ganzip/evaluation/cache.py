# SPDX-License-Identifier: Apache-2.0
"""Features on disk under what they depend on: the images, the weights and the resizing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .streams import ImageStream


_BLOCK = 2**24  # bytes that are hashed at once


def default_cache_folder() -> Path:
    """``HF_GANZIP_CACHE``, or ``hf_ganzip/features`` below ``HF_HOME``."""
    return Path(os.environ.get("HF_GANZIP_CACHE") or Path(constants.HF_HOME, "hf_ganzip", "features"))


class FeatureCache:
    """Safetensors files named by a digest of the images and of the extractor; safe under concurrent writers.

    Args:
        folder: Where files lie; None: :func:`default_cache_folder`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder is not None else default_cache_folder()

    def key(self, images: Tensor | ImageStream, extractor: Callable[[Tensor], Tensor]) -> str | None:
        """Digest of images uint8 (N, C, H, W) or streamed, and of the extractor; None if that has no ``digest``."""
        weights = getattr(extractor, "digest", None)
        if weights is None:
            return None
        if isinstance(images, ImageStream):
            described = f"2 {extractor.name} {weights} {extractor.resize} {images.digest}"
            return hashlib.sha256(described.encode()).hexdigest()
        digest = hashlib.sha256(f"1 {extractor.name} {weights} {extractor.resize} {tuple(images.shape)}".encode())
        for block in images.split(max(1, _BLOCK // max(images[0].numel(), 1))):
            digest.update(block.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def read(self, key: str) -> Tensor | None:
        """Features float32 (N, d), or None where none are kept or the file is damaged."""
        try:
            return load_file(self.folder / f"{key}.safetensors")["features"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def write(self, key: str, features: Tensor) -> None:
        """Keep features (N, d); a reader sees the whole file or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=self.folder, prefix="partial-")
        os.close(handle)
        try:
            save_file({"features": features.contiguous()}, partial)
            os.replace(partial, self.folder / f"{key}.safetensors")
        except BaseException:
            os.unlink(partial)
            raise
