# SPDX-License-Identifier: Apache-2.0
"""The bundled Fashion-MNIST network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor

from ...assets import asset_path
from ...images import to_model_range
from ...models.feature_network import FeatureNetwork


class FashionMNISTExtractor:
    """Penultimate layer of the bundled Fashion-MNIST classifier, for grey images of at most 32x32 pixels.

    Args:
        source: None; these weights are bundled.
        device: Where the network runs; images are moved there.

    Example:
        >>> extractor = FashionMNISTExtractor()
        >>> extractor(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 128])
    """

    name = "fashion_mnist"
    resize = "images smaller than 32x32 are centred on black (0); 32x32 is taken as it is; no interpolation"

    def __init__(self, source: None = None, device: str | torch.device = "cpu"):
        if source is not None:
            raise ValueError(f"extractor 'fashion_mnist' takes no source; got {source!r}. Its weights are bundled.")
        folder = asset_path("fashion-mnist-features")
        self.network = FeatureNetwork.from_pretrained(folder).eval().to(device)
        self.dim: int = self.network.config.embedding_dim
        self.digest = hashlib.sha256(Path(folder, SAFETENSORS_WEIGHTS_NAME).read_bytes()).hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (B, 1, H, H), H <= 32, to features float32 (B, 128), >= 0.

        Raises:
            ValueError: Colour images, images that are not square or larger than 32x32.
        """
        side = self.network.config.image_size
        _, channels, height, width = images.shape
        if channels != self.network.config.image_channels:
            raise ValueError(
                f"extractor 'fashion_mnist': images have {channels} channels; allowed is 1 (grey). "
                "Use one for colour images: inception_v3, vgg16, dinov2 or clip."
            )
        if height != width or height > side:
            raise ValueError(
                f"extractor 'fashion_mnist': images are {height}x{width}; allowed are square images of at most "
                f"{side}x{side}. Resize them or use another extractor."
            )
        start = (side - height) // 2
        canvas = torch.zeros(len(images), channels, side, side, dtype=torch.uint8, device=self.network.device)
        canvas[:, :, start : start + height, start : start + width] = images  # one memory layout, so the same bits
        return self.network(to_model_range(canvas)).embedding.float()
