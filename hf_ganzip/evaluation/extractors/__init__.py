# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: uint8 images in, float32 features out.

An extractor is a callable, uint8 (B, C, H, W) -> float32 (B, dim), with the attributes ``name``, ``dim``, ``digest``
(sha256 of its weights) and ``resize`` (how images reach the size of its network): the conditions without which a
metric on its features means nothing. A registry entry is a factory ``(source=None, device="cpu") -> extractor``, where
``source`` names weights other than the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...core.registry import lookup
from ..cache import FeatureCache
from ..streams import ImageStream, batches
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

__all__ = ["EXTRACTORS", "check_extractor", "default_extractor", "extract_features", "load_extractor", "load_logits"]


def load_extractor(
    extractor: str | Callable[[Tensor], Tensor], device: str | torch.device = "cpu"
) -> Callable[[Tensor], Tensor]:
    """An extractor by name, by "NAME:SOURCE" (a Hub id, folder or file of weights), or the callable itself.

    Raises:
        ImportError: The extractor needs an extra that is not installed.
        ConnectionError: Its weights cannot be downloaded.
        ValueError: Unknown name, or a source for an extractor that takes none.

    Example:
        >>> load_extractor("fashion_mnist").dim
        128
    """
    if not isinstance(extractor, str):
        return extractor
    name, _, source = extractor.partition(":")
    check_extractor(name)
    return EXTRACTORS[name](source or None, device=device)


def check_extractor(extractor: Any) -> None:
    """Refuse an unknown name, without loading anything.

    Raises:
        ValueError: Unknown name.
    """
    if isinstance(extractor, str):
        lookup(EXTRACTORS, extractor.partition(":")[0], "extractor")


def default_extractor(images: Iterable[Tensor | ImageStream | None]) -> str:
    """The extractor for images of which nothing else is said: "fashion_mnist" for those that it takes, grey squares of
    at most 32 pixels (and where there are none), otherwise "inception_v3", that of FID.

    Example:
        >>> default_extractor([torch.zeros(2, 1, 28, 28), None]), default_extractor([torch.zeros(2, 3, 28, 28)])
        ('fashion_mnist', 'inception_v3')
    """
    for side in images:
        if isinstance(side, ImageStream):
            channels, shapes = side.channels, {side.shape(i) for i in range(len(side))}
        elif side is not None:
            channels, shapes = side.shape[1], {(side.shape[2], side.shape[3])}
        else:
            continue
        if channels != 1 or any(height != width or height > 32 for height, width in shapes):
            return "inception_v3"
    return "fashion_mnist"


def load_logits(extractor: str | Callable[[Tensor], Tensor], device: str | torch.device = "cpu") -> InceptionExtractor:
    """The extractor of the inception score's logits, with the weights that an "inception_v3:SOURCE" names.

    Raises:
        ImportError: torch-fidelity is missing.
        ConnectionError: The weights cannot be downloaded.
        ValueError: Wrong weights.
    """
    name, _, source = extractor.partition(":") if isinstance(extractor, str) else ("", "", "")
    return InceptionExtractor(source if name == "inception_v3" and source else None, device, logits=True)


def extract_features(
    images: Tensor | ImageStream,
    extractor: str | Callable[[Tensor], Tensor] = "fashion_mnist",
    *,
    batch_size: int = 256,
    progress: bool = True,
    cache: FeatureCache | None = None,
) -> Tensor:
    """Features of all images; the same for every ``batch_size`` up to float32 rounding.

    Args:
        images: uint8 (N, C, H, W), N >= 1, or a stream of images of many sizes (:func:`.open_stream`), which the
            extractor gets in batches of one size, in memory that does not grow with their number.
        extractor: As for :func:`load_extractor`: a name, "NAME:SOURCE", or any callable uint8 (B, C, H, W) -> (B, d).
        batch_size: Images per call, >= 1; fewer of large images, see :func:`.batches`.
        progress: Whether to show a progress bar.
        cache: Where features of the same images by an extractor with the same digest are looked up and kept.

    Returns:
        float32 (N, d) on the CPU.

    Raises:
        TypeError: ``images`` is not a uint8 tensor.
        ValueError: Wrong shape, no images, unknown extractor, features that are not one row per image, or images of a
            stream that cannot be read.

    Example:
        >>> pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> extract_features(pixels, lambda batch: batch.flatten(1), progress=False).shape
        torch.Size([3, 64])
    """
    _check_images(images, batch_size)
    call = load_extractor(extractor)
    key = cache.key(images, call) if cache is not None else None
    if cache is not None and key is not None and (found := cache.read(key)) is not None:
        return found
    rows = torch.empty(0)
    with tqdm(total=len(images), desc="features", unit="image", disable=not progress) as bar:
        for places, batch in batches(images, batch_size):
            features = call(batch)
            if features.ndim != 2 or len(features) != len(batch):
                raise ValueError(
                    f"extract_features: the extractor returned shape {tuple(features.shape)} for {len(batch)} images; "
                    f"allowed is ({len(batch)}, d)."
                )
            if rows.ndim == 1:
                rows = torch.empty(len(images), features.shape[1])
            if features.shape[1] != rows.shape[1]:
                raise ValueError(
                    f"extract_features: the extractor returned {features.shape[1]} features of images of size "
                    f"{tuple(batch.shape[2:])}, and {rows.shape[1]} of others; set resolution."
                )
            rows[places] = features.detach().float().cpu()
            bar.update(len(batch))
    if cache is not None and key is not None:
        cache.write(key, rows)
    return rows


def _check_images(images: Tensor | ImageStream, batch_size: int) -> None:
    if not isinstance(images, ImageStream) and (not isinstance(images, Tensor) or images.dtype != torch.uint8):
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"extract_features: images is {got}; allowed is a torch.uint8 tensor (hf_ganzip.images.to_uint8)."
        )
    if isinstance(images, Tensor) and images.ndim != 4 or len(images) == 0:
        shape = tuple(images.shape) if isinstance(images, Tensor) else (0,)
        raise ValueError(f"extract_features: images has shape {shape}; allowed is (N, C, H, W) with N >= 1.")
    if batch_size < 1:
        raise ValueError(f"extract_features: batch_size is {batch_size}; allowed is 1 or more.")
