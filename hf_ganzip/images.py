# SPDX-License-Identifier: Apache-2.0
"""Labelled images, held in memory as uint8: parquet files, image folders, `datasets` ids or MNIST-type idx files."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import TensorDataset

from .hub import unreachable


_IDX_UINT8 = 0x08
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_idx(path: Path) -> np.ndarray:
    """Read an unsigned-byte idx file (the format of MNIST), gzipped or not.

    Raises:
        ValueError: Not an idx file of unsigned bytes, damaged, or shorter than its header says.
    """
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    try:
        with opened as file:
            data = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}); download it again.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _IDX_UINT8 or len(data) < 4 + 4 * data[3]:
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


def read_images(
    source: str | Path, *, split: str = "train", image_column: str | None = None, label_column: str = "label"
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Read all images of one split as they are stored.

    Args:
        source: One of
            a folder with ``{train,t10k}-images-idx3-ubyte[.gz]`` files;
            a folder of PNG or JPEG files, in the order of their sorted paths, below ``split`` if it has such a folder;
            the folder right above each file is its class, unless all lie in ``source`` or ``split`` itself;
            a parquet file with encoded images (a file is one split);
            a `datasets` id.
        split: "train" or "test".
        image_column: Column of the images (parquet, `datasets`); None: "image", or else the only one that holds images.
        label_column: Column of the class ids (parquet, `datasets`).

    Returns:
        Images, each uint8 (H, W, C) with C = 1 or 3, and class ids (N,) int64, or None where there are none.

    Raises:
        FileNotFoundError: ``source`` is no file or folder and cannot be a `datasets` id.
        ValueError: No images, an unreadable file, or a missing column.
    """
    path = Path(source)
    if path.is_dir():
        prefix = "train" if split == "train" else "t10k"
        idx_file = next(path.glob(f"{prefix}-images-idx3-ubyte*"), None)
        images, labels = _read_idx_pair(idx_file) if idx_file else _read_folder(path, split)
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise FileNotFoundError(f"read_images: no parquet file {path}.")
        images, labels = _read_parquet(path, image_column, label_column)
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        images, labels = _read_datasets(str(source), split, image_column, label_column)
    else:
        raise FileNotFoundError(
            f"read_images: {source} is no file or folder; allowed are a folder, a .parquet file and a `datasets` id."
        )
    if not images:
        raise ValueError(
            f"read_images: {source} has no images; images in a folder end in {', '.join(_IMAGE_SUFFIXES)}."
        )
    return images, labels


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
        squeezed = image[..., 0] if image.shape[2] == 1 else image
        image = pil_to_array(ImageOps.fit(Image.fromarray(squeezed), (resolution, resolution)), "image")
    return fit_images(image[None], resolution)[0]


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
    images, labels = read_images(source, split=split, image_column=image_column, label_column=label_column)
    pixels = stack_images([resize_image(image, resolution) for image in images])
    ids = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.from_numpy(labels)
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


def _decode(data: bytes | Path, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            image.load()
            return pil_to_array(image, where)
    except OSError as error:
        raise ValueError(f"{where} is not a readable image: {error}") from error


def _read_idx_pair(images_file: Path) -> tuple[list[np.ndarray], np.ndarray | None]:
    images = read_idx(images_file)[..., None]
    pattern = images_file.name.split("-")[0] + "-labels-idx1-ubyte*"
    labels_file = next(images_file.parent.glob(pattern), None)
    labels = read_idx(labels_file).astype(np.int64) if labels_file else None
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"{images_file.parent} has {len(images)} images in {images_file.name} but {len(labels)} labels."
        )
    return list(images), labels


def _read_folder(folder: Path, split: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    root = folder / split if (folder / split).is_dir() else folder
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    classes = sorted({path.parent for path in files})
    labels = None if classes in ([], [root]) else np.array([classes.index(path.parent) for path in files], np.int64)
    return [_decode(path, str(path)) for path in files], labels


def _read_parquet(
    path: Path, image_column: str | None, label_column: str
) -> tuple[list[np.ndarray], np.ndarray | None]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Reading parquet files needs pyarrow: pip install "hf_ganzip[metrics]".') from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error
    of_images = [
        field.name
        for field in table.schema
        if pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    image_column = _find_column(str(path), image_column, table.column_names, of_images)
    images = []
    for row, cell in enumerate(table[image_column].to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ValueError(f"{path}, row {row}: column {image_column!r} holds no encoded image. Embed the images.")
        images.append(_decode(data, f"{path}, row {row}"))
    labels = table[label_column].to_numpy().astype(np.int64) if label_column in table.column_names else None
    return images, labels


def _read_datasets(
    source: str, split: str, image_column: str | None, label_column: str
) -> tuple[list[np.ndarray], np.ndarray | None]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('Loading a `datasets` id needs datasets: pip install "hf_ganzip[metrics]".') from error
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or bool(
        unreachable()
    )  # it would try for half a minute, then look into its cache
    try:
        data = datasets.load_dataset(source, split=split)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    of_images = [
        name
        for name, feature in data.features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    ]
    image_column = _find_column(source, image_column, data.column_names, of_images)
    data = data.cast_column(image_column, datasets.Image())
    images = [pil_to_array(image, f"{source}, row {row}") for row, image in enumerate(data[image_column])]
    labels = np.asarray(data[label_column], np.int64) if label_column in data.column_names else None
    return images, labels


def _find_column(source: str, wanted: str | None, found: list[str], of_images: list[str]) -> str:
    """The column that is wanted, or without a wish "image" or the only one that holds images."""
    if wanted is None and "image" not in found:
        if len(of_images) != 1:
            raise ValueError(
                f"{source} has no column 'image' and as columns that hold images: {', '.join(of_images) or 'none'}; "
                f"it has {', '.join(found)}. Set image_column."
            )
        return of_images[0]
    column = wanted or "image"
    if column not in found:
        raise ValueError(f"{source} has no column {column!r}; it has {', '.join(found)}. Set image_column.")
    return column


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (any shape) in 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [-1, 1] (clamped) to uint8 in 0..255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
