# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: uint8 images in, float32 features out.

An extractor is a callable, uint8 (B, C, H, W) -> float32 (B, dim), with the attributes ``name``, ``dim``, ``digest``
(sha256 of its weights) and ``resize`` (how images reach the size of its network): the conditions without which a
metric on its features means nothing. A registry entry is a factory ``(source=None, device="cpu") -> extractor``, where
``source`` names weights other than the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...registry import lookup
from ..cache import FeatureCache
from .fashion_mnist import FashionMNISTExtractor
from .inception import InceptionExtractor
from .transformers import CLIPExtractor, DINOv2Extractor
from .vgg16 import VGG16Extractor


EXTRACTORS = {
    "fashion_mnist": FashionMNISTExtractor,
    "vgg16": VGG16Extractor,
    "inception_v3": InceptionExtractor,
    "dinov2": DINOv2Extractor,
    "clip": CLIPExtractor,
}

__all__ = ["EXTRACTORS", "extract_features", "load_extractor"]


def load_extractor(
    extractor: str | Callable[[Tensor], Tensor], device: str | torch.device = "cpu"
) -> Callable[[Tensor], Tensor]:
    """An extractor by name, by "NAME:SOURCE" (a Hub id, folder or file of weights), or the callable itself.

    Raises:
        ImportError: The extractor needs an extra that is not installed.
        ValueError: Unknown name, or a source for an extractor that takes none.

    Example:
        >>> load_extractor("fashion_mnist").dim
        128
    """
    if not isinstance(extractor, str):
        return extractor
    name, _, source = extractor.partition(":")
    return lookup(EXTRACTORS, name, "extractor")(source or None, device=device)


def extract_features(
    images: Tensor,
    extractor: str | Callable[[Tensor], Tensor] = "fashion_mnist",
    *,
    batch_size: int = 256,
    progress: bool = True,
    cache: FeatureCache | None = None,
) -> Tensor:
    """Features of all images; the same for every ``batch_size`` up to float32 rounding.

    Args:
        images: uint8 (N, C, H, W), N >= 1.
        extractor: As for :func:`load_extractor`: a name, "NAME:SOURCE", or any callable uint8 (B, C, H, W) -> (B, d).
        batch_size: Images per call, >= 1.
        progress: Whether to show a progress bar.
        cache: Where features of the same images by an extractor with the same digest are looked up and kept.

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
            f"extract_features: images is {got}; allowed is a torch.uint8 tensor (hf_ganzip.images.to_uint8)."
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"extract_features: images has shape {tuple(images.shape)}; allowed is (N, C, H, W) with N >= 1."
        )
    if batch_size < 1:
        raise ValueError(f"extract_features: batch_size is {batch_size}; allowed is 1 or more.")
    call = load_extractor(extractor)
    key = cache.key(images, call) if cache is not None else None
    if key is not None:
        found = cache.read(key)
        if found is not None:
            return found
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
    features = torch.cat(rows)
    if key is not None:
        cache.write(key, features)
    return features
