# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: uint8 images in, float32 features out.

An extractor is a callable, uint8 (B, C, H, W) -> float32 (B, dim), with the attributes ``name``, ``dim``, ``digest``
(sha256 of its weights) and ``resize`` (how images reach the size of its network): the conditions without which a
metric on its features means nothing. A registry entry is a factory ``(device="cpu") -> extractor``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor
from tqdm.auto import tqdm

from ..assets import asset_path
from ..models.feature_network import FeatureNetwork
from ..registry import lookup
from ..training.data import to_model_range


class FashionMNISTExtractor:
    """Penultimate layer of the bundled Fashion-MNIST classifier, for grey images of at most 32x32 pixels.

    Args:
        device: Where the network runs; images are moved there.

    Example:
        >>> extractor = FashionMNISTExtractor()
        >>> extractor(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 128])
    """

    name = "fashion_mnist"
    resize = "images smaller than 32x32 are centred on black (0); 32x32 is taken as it is; no interpolation"

    def __init__(self, device: str | torch.device = "cpu"):
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
                "Use an extractor for colour images."
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


EXTRACTORS = {"fashion_mnist": FashionMNISTExtractor}


def extract_features(
    images: Tensor,
    extractor: str | Callable[[Tensor], Tensor] = "fashion_mnist",
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> Tensor:
    """Features of all images; the same for every ``batch_size`` up to float32 rounding.

    Args:
        images: uint8 (N, C, H, W), N >= 1.
        extractor: Name in ``EXTRACTORS`` or any callable uint8 (B, C, H, W) -> (B, d).
        batch_size: Images per call, >= 1.
        progress: Whether to show a progress bar.

    Returns:
        float32 (N, d) on the CPU.

    Raises:
        TypeError: ``images`` is not a uint8 tensor.
        ValueError: Wrong shape, no images, unknown extractor, or features that are not one row per image.

    Example:
        >>> pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> extract_features(pixels, lambda batch: batch.flatten(1), progress=False).shape
        torch.Size([3, 64])
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"extract_features: images is {got}; allowed is a torch.uint8 tensor (training.data.to_uint8)."
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"extract_features: images has shape {tuple(images.shape)}; allowed is (N, C, H, W) with N >= 1."
        )
    if batch_size < 1:
        raise ValueError(f"extract_features: batch_size is {batch_size}; allowed is 1 or more.")
    call = lookup(EXTRACTORS, extractor, "extractor")
    if isinstance(extractor, str):
        call = call()
    rows = []
    with tqdm(total=len(images), desc="features", unit="image", disable=not progress) as bar:
        for batch in images.split(batch_size):
            features = call(batch)
            if features.ndim != 2 or len(features) != len(batch):
                raise ValueError(
                    f"extract_features: the extractor returned shape {tuple(features.shape)} for {len(batch)} images; "
                    f"allowed is ({len(batch)}, d)."
                )
            rows.append(features.detach().float().cpu())
            bar.update(len(batch))
    return torch.cat(rows)
