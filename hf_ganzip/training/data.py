# SPDX-License-Identifier: Apache-2.0
"""Labelled images for training, held in memory as uint8: `datasets` ids and folders, parquet files, or MNIST-type idx files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset


_IDX_UINT8 = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read an unsigned-byte idx file (the format of MNIST), gzipped or not.

    Raises:
        ValueError: Not an idx file of unsigned bytes, or shorter than its header says.
    """
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    with opened as file:
        data = file.read()
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _IDX_UINT8:
        raise ValueError(f"{path} is not an idx file of unsigned bytes.")
    ndim = data[3]
    shape = np.frombuffer(data, ">i4", count=ndim, offset=4)
    expected = 4 + 4 * ndim + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise ValueError(f"{path} has {len(data)} bytes; its header asks for {expected}.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


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


def load_images(
    source: str, *, split: str = "train", resolution: int, image_column: str = "image", label_column: str = "label"
) -> TensorDataset:
    """Load all images of one split.

    Args:
        source: Folder with ``{train,t10k}-images-idx3-ubyte[.gz]`` files, parquet file, image folder or `datasets` id.
        split: "train" or "test".
        resolution: Side of the result; smaller images are centred on black, larger ones cropped and resized.
        image_column: Column of the images.
        label_column: Column of the class ids; without it all labels are 0.

    Returns:
        Dataset of (image (C, H, W) uint8, label int64).
    """
    path = Path(source)
    names = [f"{'train' if split == 'train' else 't10k'}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    files = [next(path.glob(f"{name}*"), None) for name in names] if path.is_dir() else [None]
    if files[0] is not None:
        images, labels = read_idx(files[0])[..., None], read_idx(files[1])
        images = fit_images(images, resolution)
    else:
        images, labels = _load_with_datasets(source, split, resolution, image_column, label_column)
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return TensorDataset(pixels, torch.from_numpy(labels.astype(np.int64)))


def _load_with_datasets(source, split, resolution, image_column, label_column) -> tuple[np.ndarray, np.ndarray]:
    from datasets import Image, load_dataset
    from PIL import ImageOps

    if source.endswith(".parquet"):
        data = load_dataset("parquet", data_files=source, split="train")
    elif Path(source).is_dir():
        data = load_dataset("imagefolder", data_dir=source, split=split)
    else:
        data = load_dataset(source, split=split)
    if image_column not in data.column_names:
        raise ValueError(f"{source} has no column {image_column!r}; it has {data.column_names}. Set image_column.")
    data = data.cast_column(image_column, Image())
    images = []
    for image in data[image_column]:
        if min(image.size) > resolution:
            image = ImageOps.fit(image, (resolution, resolution))
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        images.append(fit_images(array[None], resolution)[0])
    labels = data[label_column] if label_column in data.column_names else [0] * len(images)
    return np.stack(images), np.asarray(labels)


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (any shape) in 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [-1, 1] (clamped) to uint8 in 0..255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
