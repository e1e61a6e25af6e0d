# SPDX-License-Identifier: Apache-2.0
"""Read uploaded files, which may be hostile, into features or images.

Sizes are checked as they are declared, before anything is allocated, and again while bytes arrive. Nothing is
unpickled and nothing is written to disk. Whatever is wrong becomes a ValueError with one line that can be shown to the
sender.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..images import pil_to_array


@dataclass(frozen=True)
class Limits:
    """What an upload may ask for; bytes, counts and pixels."""

    file_bytes: int = 256 * 2**20
    rows: int = 10_000
    dim: int = 16_384
    elements: int = 2**25  # of a feature array
    header_bytes: int = 2**20  # of a safetensors file
    directory_bytes: int = 4 * 2**20  # of a zip file
    member_bytes: int = 16 * 2**20  # of one image file
    unpacked_bytes: int = 512 * 2**20  # of all image files, and of a parquet file
    image_pixels: int = 2**21
    pixels: int = 2**27  # of all images


LIMITS = Limits()
_SUFFIXES = (".npy", ".safetensors", ".parquet", ".zip")
_FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}  # safetensors dtypes and their bytes
_UNEQUAL_LISTS = "has lists of different lengths; allowed is one length for all."


def read_upload(path: str | Path, limits: Limits = LIMITS) -> np.ndarray | list[np.ndarray]:
    """Features or images of one uploaded file.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet`` with features, or ``.zip`` with PNG or JPEG images.
        limits: Largest sizes that are accepted.

    Returns:
        Features (N, d), float32 or float64 and finite, N >= 2; or N images uint8 (H, W, C), C = 1 or 3, sorted by name.

    Raises:
        ValueError: Anything else; one line, without a path of this machine.
    """
    name = _shown(Path(path).name)
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{name}: the name must end in {', '.join(_SUFFIXES)}.")
    try:
        size = os.path.getsize(path)
        _at_most(size, limits.file_bytes, "bytes")
        if suffix == ".zip":
            return _read_zip(path, size, limits)
        reader = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}[suffix]
        return _check_values(reader(path, size, limits))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except (OSError, EOFError, MemoryError) as error:
        raise ValueError(f"{name}: cannot be read ({type(error).__name__}).") from None


def _at_most(got: int, allowed: int, what: str) -> None:
    if got > allowed:
        raise ValueError(f"has {got:,} {what}; allowed are at most {allowed:,}.")


def _check_shape(shape: Any, limits: Limits) -> None:
    if len(shape) != 2:
        raise ValueError(f"has {len(shape)} dimensions; allowed are 2: one feature vector per row, (N, d).")
    rows, dim = shape
    if rows < 2 or dim < 1:
        raise ValueError(f"has shape ({rows}, {dim}); at least 2 rows and 1 column are needed.")
    _at_most(rows, limits.rows, "rows")
    _at_most(dim, limits.dim, "columns")
    _at_most(rows * dim, limits.elements, "numbers")


def _check_values(features: np.ndarray) -> np.ndarray:
    """The features as float32 (float64 stays), refused unless all are finite."""
    if features.dtype != np.float64:
        features = features.astype(np.float32)
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise ValueError(f"has NaN or infinity in {bad:,} of {len(features):,} rows; remove them first.")
    return np.ascontiguousarray(features, features.dtype.newbyteorder("="))


def _read_npy(path: str | Path, size: int, limits: Limits) -> np.ndarray:
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file, max_header_size=4096)
        except Exception:  # the header is parsed as Python source, which fails in many ways
            raise ValueError("is no .npy file of numbers; write it with numpy.save.") from None
        if dtype.hasobject:
            raise ValueError("holds pickled Python objects, which are never loaded; save a plain array of numbers.")
        if dtype.kind not in "fiu" or dtype.itemsize > 8:
            raise ValueError(f"has dtype {_shown(str(dtype))}; allowed are real numbers of at most 8 bytes.")
        _check_shape(shape, limits)
        expected = file.tell() + shape[0] * shape[1] * dtype.itemsize
        if size != expected:
            raise ValueError(f"has {size:,} bytes, but its header asks for {expected:,}; it is damaged.")
    return np.load(path, allow_pickle=False)


def _read_safetensors(path: str | Path, size: int, limits: Limits) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("is no safetensors file: its header does not fit in it.")
        _at_most(length, limits.header_bytes, "bytes of header")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            name = "features" if "features" in tensors else next(iter(tensors))
            dtype, shape = tensors[name]["dtype"], [int(side) for side in tensors[name]["shape"]]
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError, StopIteration):
            raise ValueError("is no safetensors file: its header names no tensor.") from None
    if len(tensors) > 1 and name != "features":
        raise ValueError(f"holds {len(tensors):,} tensors; allowed is one, or one of them named features.")
    if dtype not in _FLOATS:
        raise ValueError(f"has dtype {_shown(str(dtype))}; allowed are {', '.join(_FLOATS)}.")
    _check_shape(shape, limits)
    try:
        tensor = load_file(path)[name]
    except SafetensorError:
        raise ValueError("is a damaged safetensors file.") from None
    return tensor.numpy() if dtype in ("F32", "F64") else tensor.float().numpy()


def _read_parquet(path: str | Path, size: int, limits: Limits) -> np.ndarray:
    """Numeric columns side by side, or one column of lists of equal length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = {"thrift_string_size_limit": 2**22, "thrift_container_size_limit": 2**20}
    try:
        with pq.ParquetFile(path, **small) as file:
            lists = _check_parquet(file, limits)
            blocks, seen = [], 0
            for batch in file.iter_batches(batch_size=256):
                blocks.append(_parquet_block(batch, lists))
                seen += blocks[-1].size
                _at_most(seen, limits.elements, "numbers")
    except pa.ArrowException:
        raise ValueError("is no readable parquet file.") from None
    if len({block.shape[1] for block in blocks}) > 1:
        raise ValueError(_UNEQUAL_LISTS)
    features = np.concatenate(blocks) if blocks else np.empty((0, 1))
    _check_shape(features.shape, limits)
    return features


def _check_parquet(file: Any, limits: Limits) -> bool:
    """Check what the footer of a ``ParquetFile`` declares; whether its one column holds lists."""
    from pyarrow import types

    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    _at_most(file.metadata.num_rows, limits.rows, "rows")
    _at_most(file.metadata.num_columns, limits.dim, "columns")
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    _at_most(sum(chunk.total_uncompressed_size for chunk in chunks), limits.unpacked_bytes, "bytes when unpacked")
    _at_most(sum(chunk.num_values for chunk in chunks), limits.elements, "numbers")
    kinds = [field.type for field in file.schema_arrow]
    lists = len(kinds) == 1 and _is_list(kinds[0])
    if lists:
        kinds = [kinds[0].value_type]
    if not kinds or not all(types.is_floating(kind) or types.is_integer(kind) for kind in kinds):
        raise ValueError("has columns that are no numbers; allowed are number columns, or one column of lists.")
    return lists


def _parquet_block(batch: Any, lists: bool) -> np.ndarray:
    """Rows of one record batch, (n, d)."""
    columns = [batch.column(0).flatten()] if lists else batch.columns
    if any(column.null_count for column in [*columns, *batch.columns]):
        raise ValueError("has empty cells; fill or remove them.")
    block = np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    if lists and len(set(batch.column(0).value_lengths().to_pylist())) > 1:
        raise ValueError(_UNEQUAL_LISTS)
    return block.reshape(len(batch), -1)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _read_zip(path: str | Path, size: int, limits: Limits) -> list[np.ndarray]:
    with open(path, "rb") as file:
        _check_directory(file, size, limits)
        try:
            with zipfile.ZipFile(file) as archive:
                members = [info for info in archive.infolist() if not (info.is_dir() or _is_ignored(info.filename))]
                _check_members(members, limits)
                images, pixels = [], 0
                for info in sorted(members, key=lambda info: info.filename):
                    images.append(_decode(_read_member(archive, info), info.filename, limits))
                    pixels += images[-1].size
                    _at_most(pixels, limits.pixels, "pixel values in all images")
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, UnicodeDecodeError):
            raise ValueError("is a damaged zip file.") from None
    return images


def _check_directory(file: BinaryIO, size: int, limits: Limits) -> None:
    """Bound the list of members before zipfile reads it: it must end the file, without comment and without zip64."""
    file.seek(max(0, size - 42))
    tail = file.read(42)
    end = tail[-22:]
    if len(end) < 22 or end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        raise ValueError("is no zip file, or has a comment; pack the images again.")
    if tail[:-22].startswith(b"PK\x06\x07"):
        raise ValueError("is a zip64 file; pack fewer images.")
    _at_most(int.from_bytes(end[12:16], "little"), limits.directory_bytes, "bytes of directory")
    _at_most(int.from_bytes(end[10:12], "little"), limits.rows, "members")


def _is_ignored(name: str) -> bool:
    """Whether macOS added it."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] == ".DS_Store"


def _check_members(members: list[zipfile.ZipInfo], limits: Limits) -> None:
    """All that can be said of the members without unpacking one."""
    if len(members) < 2:
        raise ValueError(f"holds {len(members)} images; at least 2 are needed.")
    _at_most(len(members), limits.rows, "members")
    _at_most(sum(info.file_size for info in members), limits.unpacked_bytes, "bytes when unpacked")
    for info in members:
        name, parts = _shown(info.filename), re.split(r"[/\\]", info.orig_filename)
        if ".." in parts or not parts[0] or ":" in parts[0]:
            raise ValueError(f"member {name} points outside of the folder; pack the images again.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"member {name} is a link; pack the images themselves.")
        if info.flag_bits & 1:
            raise ValueError(f"member {name} is encrypted; pack the images without a password.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {name} is packed in an unusual way; use plain zip (deflate).")
        if not name.lower().endswith((".png", ".jpg", ".jpeg")):
            raise ValueError(f"member {name} is no PNG or JPEG image; pack images only.")
        _at_most(info.file_size, limits.member_bytes, f"bytes in member {name}")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as member:
        data = member.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ValueError(f"member {_shown(info.filename)} has not the size that it declares.")
    return data


def _decode(data: bytes, name: str, limits: Limits) -> np.ndarray:
    where = f"member {_shown(name)}"
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{where} has too many pixels; allowed are at most {limits.image_pixels:,}.") from None
    except Exception:  # a decoder may raise anything on hostile bytes
        raise ValueError(f"{where} is no readable PNG or JPEG image.") from None
    with image:
        _at_most(image.width * image.height, limits.image_pixels, f"pixels in {where}")
        try:
            image.load()
        except Exception:  # as above
            raise ValueError(f"{where} is a damaged image.") from None
        return pil_to_array(image, where)


def _shown(text: str) -> str:
    """A name from outside, fit to be shown: short, and without markup or control characters."""
    return re.sub(r"[^\w. ()/-]", "?", text)[:60]
