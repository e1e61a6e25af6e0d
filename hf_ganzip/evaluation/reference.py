# SPDX-License-Identifier: Apache-2.0
"""Real images to compare generated ones with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..assets import ASSETS, resolve
from ..core.registry import suggestion
from ..images import pil_to_array, resize_image, stack_images
from ..images.files import StoredImages, find_images


def load_reference(
    source: str | Path, *, split: str = "test", resolution: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Load real images.

    Args:
        source: "fashion-mnist-test-5000" (bundled), or a parquet file, a folder of image files (sorted),
            a folder of MNIST-type idx files, or a `datasets` id; see :func:`hf_ganzip.images.read_images`.
        split: "train" or "test"; a parquet file is one split.
        resolution: Side of the result: smaller images are centred on black, larger ones cropped and resized.
            None keeps the stored size, which must then be one for all.

    Images of files and `datasets` come from the column "image" or else the only one with images, class ids from
    "label".

    Returns:
        Images uint8 (N, C, H, W), and class ids int64 (N,) or None where the source has none.

    Raises:
        FileNotFoundError: ``source`` is no file or folder, and no `datasets` id that can be reached.
        ValueError: No images, unreadable ones, a missing column or split, or images of different sizes.

    Example:
        >>> images, labels = load_reference("fashion-mnist-test-5000")
        >>> images.shape, labels.bincount().tolist()
        (torch.Size([5000, 1, 28, 28]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])
    """
    stored = find_reference(source, split=split)
    to_size = None if resolution is None else lambda image: resize_image(image, resolution)
    try:
        pixels = stack_images(stored.decode_all(pil_to_array, to_size))
    except ValueError as error:
        raise ValueError(f"{source}, split {split!r}: {error}") from error
    return pixels, None if stored.labels is None else torch.from_numpy(stored.labels)


def find_reference(source: str | Path, *, split: str = "test") -> StoredImages:
    """Where the images of :func:`load_reference` are, before one is read.

    Raises:
        FileNotFoundError: As :func:`load_reference`.
        ValueError: No images, or a missing column or split.
    """
    path = resolve(source)
    if Path(path).is_file() and Path(path).suffix != ".parquet":
        raise ValueError(
            f"{source} is a file of no known kind; allowed are .parquet, .npy and .safetensors files and folders."
        )
    try:
        return find_images(path, split=split)
    except OSError as error:
        if Path(path).exists():
            raise
        hint = suggestion(ASSETS, str(source))
        raise FileNotFoundError(f"{source}: neither here nor on the Hub, or no connection.{hint} {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}, split {split!r}: {error}") from error


def resize(images: Tensor, resolution: int) -> Tensor:
    """Images uint8 (N, C, H, W) at the side ``resolution``, as :func:`load_reference` resizes them."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    return stack_images([resize_image(image.permute(1, 2, 0).numpy(), resolution) for image in images.cpu()])


def evenly(images: Tensor, count: int) -> Tensor:
    """At most ``count`` of ``images`` or labels, evenly spaced, so that those sorted by class keep their balance."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // count]
