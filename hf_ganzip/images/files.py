# SPDX-License-Identifier: Apache-2.0
"""Images as they are stored, found by one rule and decoded one at a time."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..core.extras import needed_by
from ..core.hub import unreachable


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class StoredImages:
    """Images of one source, read when they are asked for.

    Args:
        names: Where each image is, for errors.
        read: Number of an image -> its encoded bytes, or its pixels uint8 (H, W, C).
        labels: Class ids int64 (N,), where they are known.
    """

    names: Sequence[str]
    read: Callable[[int], bytes | np.ndarray]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def data(self, number: int) -> bytes | np.ndarray:
        """What :attr:`read` gives.

        Raises:
            ValueError: The file cannot be opened; the message names it.
        """
        try:
            return self.read(number)
        except OSError as error:
            raise ValueError(f"{self.names[number]} cannot be read: {error.strerror}.") from error

    def decode(self, number: int, convert: Callable[[Image.Image, str], np.ndarray]) -> np.ndarray:
        """Pixels uint8 (H, W, C), upright by the EXIF orientation; ``convert`` gets the Pillow image and its name.

        Raises:
            ValueError: The image cannot be read, or ``convert`` refuses it; the message names it.
        """
        name, data = self.names[number], self.data(number)
        if isinstance(data, np.ndarray):
            return data
        with open_image(data, name) as image:
            try:
                image.load()
            except Exception as error:  # a decoder may raise anything on damaged bytes
                raise ValueError(f"{name} is not a readable image: {error}") from error
            if _orientation(image) != 1:
                ImageOps.exif_transpose(image, in_place=True)
            return convert(image, name)

    def decode_all(
        self,
        convert: Callable[[Image.Image, str], np.ndarray],
        resize: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """All images, each given to ``resize`` before the next is decoded.

        Raises:
            ValueError: Names every image that :meth:`decode` or ``resize`` refuses.
        """
        faults: list[str] = []
        images = []
        for number, name in enumerate(self.names):
            try:
                image = self.decode(number, convert)
            except ValueError as error:
                faults.append(str(error))
                continue
            try:
                images.append(image if resize is None else resize(image))
            except ValueError as error:
                faults.append(f"{name}: {error}")
        raise_all(faults)
        return images


def raise_all(faults: Sequence[str]) -> None:
    """ValueError with all faults, if there are any."""
    if faults:
        raise ValueError(faults[0] if len(faults) == 1 else f"{len(faults)} images: " + " ".join(faults))


def open_image(data: bytes, name: str) -> Image.Image:
    """The Pillow image of encoded bytes, of which only the head has been looked at.

    Raises:
        ValueError: Pillow cannot read it; the message starts with ``name``.
    """
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name} is not a readable image: no format that Pillow knows.") from None
    except Exception as error:  # as above
        raise ValueError(f"{name} is not a readable image: {error}") from error


def is_turned(image: Image.Image) -> tuple[bool, bool]:
    """Whether the EXIF data of an image turn or mirror it, and whether that exchanges the stated height and width."""
    if image.format == "PNG" and "exif" not in image.info:
        return False, False  # or they are behind the pixels, all of which Pillow would decode to find them
    orientation = _orientation(image)
    stated_turned = image.format == "TIFF"
    return orientation in range(2, 9), orientation in range(5, 9) and not stated_turned


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 (upright) to 8; damaged EXIF data say nothing of the pixels: 1."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1


def find_images(
    source: str | Path, *, split: str = "train", image_column: str | None = None, label_column: str = "label"
) -> StoredImages:
    """Find the images of one split; sources and columns as for :func:`.read_images`.

    Raises:
        FileNotFoundError: ``source`` is no file or folder and cannot be a `datasets` id.
        ValueError: No images, or a missing column.
    """
    path = Path(source)
    if path.is_dir():
        prefix = "train" if split == "train" else "t10k"
        idx_file = next(path.glob(f"{prefix}-images-idx3-ubyte*"), None)
        found = _of_idx_pair(idx_file) if idx_file else _of_folder(path, split)
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise FileNotFoundError(f"read_images: no parquet file {path}.")
        found = _of_parquet(path, image_column, label_column)
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        found = _of_datasets(str(source), split, image_column, label_column)
    else:
        raise FileNotFoundError(
            f"read_images: {source} is no file or folder; allowed are a folder, a .parquet file and a `datasets` id."
        )
    if not len(found):
        raise ValueError(
            f"read_images: {source} has no images; images in a folder end in {', '.join(IMAGE_SUFFIXES)}."
        )
    return found


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


def _of_idx_pair(images_file: Path) -> StoredImages:
    images = read_idx(images_file)[..., None]
    pattern = images_file.name.split("-")[0] + "-labels-idx1-ubyte*"
    labels_file = next(images_file.parent.glob(pattern), None)
    labels = read_idx(labels_file).astype(np.int64) if labels_file else None
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{images_file.parent}: {len(images)} images in {images_file.name} but {len(labels)} labels.")
    return StoredImages([f"{images_file}, image {i}" for i in range(len(images))], images.__getitem__, labels)


def _of_folder(folder: Path, split: str) -> StoredImages:
    root = folder / split if (folder / split).is_dir() else folder
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    classes = sorted({path.parent for path in files})
    labels = None if classes in ([], [root]) else np.array([classes.index(path.parent) for path in files], np.int64)
    return StoredImages([str(path) for path in files], lambda number: files[number].read_bytes(), labels)


def _of_parquet(path: Path, image_column: str | None, label_column: str) -> StoredImages:
    with needed_by("Reading parquet files needs pyarrow", "metrics"):
        import pyarrow
        import pyarrow.parquet
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
    cells = table[image_column]

    def read(row: int) -> bytes:
        cell = cells[row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ValueError(f"{path}, row {row}: column {image_column!r} holds no encoded image. Embed the images.")
        return data

    labels = table[label_column].to_numpy().astype(np.int64) if label_column in table.column_names else None
    return StoredImages([f"{path}, row {row}" for row in range(len(cells))], read, labels)


def _of_datasets(source: str, split: str, image_column: str | None, label_column: str) -> StoredImages:
    with needed_by("Loading a `datasets` id needs datasets", "metrics"):
        import datasets
    offline = datasets.config.HF_HUB_OFFLINE
    # It would try for half a minute, then look into its cache.
    datasets.config.HF_HUB_OFFLINE = offline or bool(unreachable())
    try:
        data = datasets.load_dataset(source, split=split)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    of_images = [
        name
        for name, feature in data.features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    ]
    column = _find_column(source, image_column, data.column_names, of_images)
    encoded = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def read(row: int) -> bytes:
        cell = encoded[row][column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    labels = np.asarray(data[label_column], np.int64) if label_column in data.column_names else None
    return StoredImages([f"{source}, row {row}" for row in range(len(data))], read, labels)


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
