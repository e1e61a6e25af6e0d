# SPDX-License-Identifier: Apache-2.0
"""Real images to compare generated ones with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..assets import ASSETS, asset_path
from ..training.data import read_images, resize_image, stack_images


def load_reference(
    source: str | Path,
    *,
    split: str = "test",
    resolution: int | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> tuple[Tensor, Tensor | None]:
    """Load real images.

    Args:
        source: "fashion-mnist-test-5000" (bundled), or a parquet file, a folder of PNG or JPEG images (sorted),
            a folder of MNIST-type idx files, or a `datasets` id; see :func:`hf_ganzip.training.data.read_images`.
        split: "train" or "test"; a parquet file is one split.
        resolution: Side of the result: smaller images are centred on black, larger ones cropped and resized.
            None keeps the stored size, which must then be one for all.
        image_column: Column of the images (parquet, `datasets`).
        label_column: Column of the class ids (parquet, `datasets`).

    Returns:
        Images uint8 (N, C, H, W), and class ids int64 (N,) or None where the source has none.

    Raises:
        FileNotFoundError: ``source`` is no file or folder and cannot be a `datasets` id.
        ValueError: No images, an unreadable file, a missing column, or images of different sizes.

    Example:
        >>> images, labels = load_reference("fashion-mnist-test-5000")
        >>> images.shape, labels.bincount().tolist()
        (torch.Size([5000, 1, 28, 28]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])
    """
    if str(source) in ASSETS:
        source = asset_path(str(source))
    images, labels = read_images(source, split=split, image_column=image_column, label_column=label_column)
    pixels = stack_images(images if resolution is None else [resize_image(image, resolution) for image in images])
    return pixels, None if labels is None else torch.from_numpy(labels)


def evenly(images: Tensor, count: int) -> Tensor:
    """At most ``count`` of ``images`` or labels, evenly spaced, so that those sorted by class keep their balance."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // count]
