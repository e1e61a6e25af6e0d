# SPDX-License-Identifier: Apache-2.0
"""Labelled images, held in memory as uint8: parquet files, image folders, `datasets` ids or MNIST-type idx files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import TensorDataset

from .files import find_images


def fit_images(images: np.ndarray, resolution: int) -> np.ndarray:
    """Centre square images (N, H, H, C) uint8 on black to (N, resolution, resolution, C).

    Raises:
        ValueError: Images are larger than ``resolution`` or not square.
    """
    height, width = images.shape[1:3]
    if height != width or height > resolution:
        raise ValueError(f"images are {height}x{width}; allowed are square images of at most {resolution} pixels.")
    before = (resolution - height) // 2
    after = resolution - height - before
    return np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))


def read_images(
    source: str | Path, *, split: str = "train", image_column: str | None = None, label_column: str = "label"
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Read all images of one split as they are stored.

    Args:
        source: One of
            a folder with ``{train,t10k}-images-idx3-ubyte[.gz]`` files;
            a folder of PNG, JPEG, WebP, BMP or TIFF files at any depth, in the order of their sorted paths, below
            ``split`` if it has such a folder; names that start with a dot are left out; the folder right above each
            file is its class, unless all lie in ``source`` or ``split`` itself; a parquet file with encoded images (a
            file is one split); a `datasets` id.
        split: "train" or "test".
        image_column: Column of the images (parquet, `datasets`); None: "image", or else the only one that holds images.
        label_column: Column of the class ids (parquet, `datasets`).

    Returns:
        Images, each uint8 (H, W, C) with C = 1 or 3, turned upright by their EXIF orientation, and class ids (N,)
        int64, or None where there are none.

    Raises:
        FileNotFoundError: ``source`` is no file or folder and cannot be a `datasets` id.
        ValueError: No images, a missing column, or images that cannot be read without loss, all of which are named.
    """
    stored = find_images(source, split=split, image_column=image_column, label_column=label_column)
    return stored.decode_all(pil_to_array), stored.labels


def stack_images(images: list[np.ndarray]) -> torch.Tensor:
    """Images (H, W, C) of one size to a tensor (N, C, H, W) uint8; grey images among colour ones get three channels.

    Raises:
        ValueError: Sizes differ.
    """
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        found = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise ValueError(f"images have {len(sizes)} different sizes ({found}, ...); set resolution.")
    channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))


def resize_image(image: np.ndarray, resolution: int) -> np.ndarray:
    """Image uint8 (H, W, C) to (resolution, resolution, C): cropped and resized if larger, else centred on black.

    Raises:
        ValueError: The image is smaller than ``resolution`` and not square.
    """
    if min(image.shape[:2]) > resolution:
        image = square_image(image, resolution)
    return fit_images(image[None], resolution)[0]


def square_image(image: np.ndarray, resolution: int) -> np.ndarray:
    """The central square of an image uint8 (H, W, C) as (resolution, resolution, C), bicubic and antialiased."""
    squeezed = image[..., 0] if image.shape[2] == 1 else image
    fitted = ImageOps.fit(Image.fromarray(squeezed), (resolution, resolution), Image.Resampling.BICUBIC)
    return pil_to_array(fitted, "image")


def load_images(
    source: str | Path,
    *,
    split: str = "train",
    resolution: int,
    image_column: str | None = None,
    label_column: str = "label",
) -> TensorDataset:
    """Load all images of one split at one size; sources and columns as in :func:`read_images`.

    Args:
        source: See :func:`read_images`.
        split: "train" or "test".
        resolution: Side of the result; smaller images are centred on black, larger ones cropped and resized (bicubic).
        image_column: Column of the images; None: "image", or else the only one that holds images.
        label_column: Column of the class ids; without it all labels are 0.

    Returns:
        Dataset of (image (C, resolution, resolution) uint8, label int64).

    Raises:
        FileNotFoundError: As :func:`read_images`.
        ValueError: As :func:`read_images` and :func:`fit_images`.
    """
    stored = find_images(source, split=split, image_column=image_column, label_column=label_column)
    pixels = stack_images(stored.decode_all(pil_to_array, lambda image: resize_image(image, resolution)))
    ids = torch.zeros(len(stored), dtype=torch.int64) if stored.labels is None else torch.from_numpy(stored.labels)
    return TensorDataset(pixels, ids)


def pil_to_array(image: Image.Image, where: str) -> np.ndarray:
    """PIL image to uint8 (H, W, C), C = 1 or 3, only where nothing is lost; ``where`` names it in the error.

    Raises:
        ValueError: The mode is neither 8-bit grey nor RGB nor an opaque palette.
    """
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"{where} has mode {image.mode}; allowed are 8-bit grey and RGB images. Convert it first.")
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def loss_of(image: Image.Image) -> str | None:
    """What :func:`photograph_to_array` would drop of a Pillow image, None if nothing; only its head is looked at.

    Example:
        >>> loss_of(Image.new("RGBA", (4, 4))), loss_of(Image.new("L", (4, 4)))
        ('transparency dropped', None)
    """
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode == "P" and "transparency" in image.info):
        return "transparency dropped"
    if image.mode == "I" or image.mode.startswith("I;16"):
        return "16 bits reduced to 8"
    return f"{image.mode} converted to RGB" if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else None


def is_grey(image: Image.Image) -> bool:
    """Whether :func:`photograph_to_array` makes one channel of a Pillow image."""
    return image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")


def photograph_to_array(image: Image.Image, where: str) -> np.ndarray:
    """Pillow image to uint8 (H, W, C), C = 1 or 3, as the tools for FID read it: transparency is dropped, CMYK becomes
    RGB; of 16 bits the upper 8 stay, as Pillow reads 16-bit colour.

    Raises:
        ValueError: Pixels are floating point numbers or integers of more than 16 bits; ``where`` names the image.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{where} has integers outside 0 to 65535; allowed are images of 8 or 16 bits.")
        return (values >> 8).astype(np.uint8)[..., None]
    if loss_of(image):
        if image.mode == "P":
            image = image.convert("RGBA")  # Pillow warns on the direct way
        image = image.convert("L" if is_grey(image) else "RGB")
    return pil_to_array(image, where)


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (any shape) in 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [-1, 1] (clamped) to uint8 in 0..255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
