# SPDX-License-Identifier: Apache-2.0
"""DINOv2 and CLIP through transformers, by Hub id or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.extras import needed_by
from ...core.hub import unreachable
from .weights import downloading, rgb, weights_digest


class DINOv2Extractor:
    """Class token of DINOv2 after the last norm.

    Args:
        source: Hub id or folder of an ``AutoModel``; None: facebook/dinov2-base (768 features).
        device: Where the network runs; images are moved there.

    Raises:
        ImportError: transformers is missing.
        ConnectionError: Neither a folder nor reachable on the Hub.
    """

    name = "dinov2"
    default = "facebook/dinov2-base"

    def __init__(self, source: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        with needed_by(f"The {self.name} extractor needs transformers", "transformers"):
            from transformers import AutoImageProcessor, AutoModel
        self.source = str(source or self.default)
        where = {} if Path(self.source).is_dir() else {"local_files_only": bool(unreachable())}
        with downloading(f"{self.name}:{self.source}", "FOLDER"):
            self.processor = AutoImageProcessor.from_pretrained(self.source, **where)
            network = AutoModel.from_pretrained(self.source, **where)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device, self.digest = torch.device(device), weights_digest(self.network)
        self.dim = self._dim(self.network.config)
        settings = self.processor.to_dict()
        shown = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")
        said = ", ".join(f"{name} {settings[name]}" for name in shown if settings.get(name) is not None)
        self.resize = f"grey repeated to RGB; {type(self.processor).__name__} {said}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (B, 1 or 3, H, W) to features float32 (B, dim)."""
        pixels = self.processor(list(rgb(images, self.name)), return_tensors="pt")["pixel_values"]
        return self._features(pixels.to(self.device)).float()

    def _dim(self, config: Any) -> int:
        return config.hidden_size

    def _features(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).pooler_output


class CLIPExtractor(DINOv2Extractor):
    """Projected image embedding of CLIP, not normalized.

    Args:
        source: Hub id or folder of a CLIP model; None: openai/clip-vit-base-patch32 (512 features).
        device: Where the network runs; images are moved there.
    """

    name = "clip"
    default = "openai/clip-vit-base-patch32"

    def _dim(self, config: Any) -> int:
        return config.projection_dim

    def _features(self, pixels: Tensor) -> Tensor:
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return self.network.visual_projection(pooled)
