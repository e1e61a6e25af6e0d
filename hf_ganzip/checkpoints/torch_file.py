# SPDX-License-Identifier: Apache-2.0
"""Reads what ``torch.save`` wrote, zip and legacy, with :class:`.PickleReader`; stricter than ``weights_only``.

Sizes are checked against the bytes that are there before anything is allocated; compressed zip members (zip bombs) and
members outside the archive's folder are refused.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .pickle_reader import DamagedCheckpointError, Name, PickleReader, UnsafeCheckpointError
from .rebuild import STORAGE_DTYPES, Storage, allowed, build, call, storage


ZIP_MAGIC = b"PK\x03\x04"
_HEADER = struct.Struct("<4s22xHH")  # of a zip member; the last two are the lengths of name and extra field
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_pickle(
    data: memoryview | bytes, offset: int = 0, persistent: Callable[[Any], Any] | None = None
) -> tuple[Any, int]:
    """One pickle of data, and where it ends."""
    reader = PickleReader(data, offset, allowed=allowed, call=_call, build=build, persistent=persistent)
    return reader.load(), reader.offset


def _call(name: Name, args: tuple[Any, ...]) -> Any:
    """:func:`.rebuild.call`, and a torch file inside a pickle."""
    if name.name != "_load_from_bytes":
        return call(name, args)
    (data,) = args
    return read_torch(data)


def read_torch(data: memoryview | bytes) -> Any:
    """The object in a torch file."""
    if bytes(data[:4]) == ZIP_MAGIC:
        return _read_zip(data)
    first, offset = read_pickle(data)
    if first != LEGACY_MAGIC:
        raise DamagedCheckpointError(
            "this is no torch file: it begins neither as zip archive nor with torch's number."
        )
    return _read_legacy(data, offset)


def _read_zip(data: memoryview | bytes) -> Any:
    try:
        with zipfile.ZipFile(_File(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            _check_members(members, len(data))
            roots = [name.removesuffix("data.pkl") for name in members if name.rpartition("/")[2] == "data.pkl"]
            if len(roots) != 1:
                raise DamagedCheckpointError("the zip archive has no data.pkl, or several; torch writes one.")
            root = roots[0]
            order = archive.read(root + "byteorder") if root + "byteorder" in members else b"little"
            if order.strip() != b"little":
                raise UnsafeCheckpointError("the file is big-endian; allowed are little-endian ones.")
            found: dict[str, Storage] = {}

            def persistent(identifier: Any) -> Storage:
                dtype, key, count = _storage_id(identifier)
                if key not in found:
                    if f"{root}data/{key}" not in members:
                        raise DamagedCheckpointError(f"the storage {key!r} is not in the archive.")
                    if members[f"{root}data/{key}"].file_size != count * dtype.itemsize:
                        raise DamagedCheckpointError(f"the storage {key!r} has another size than the file declares.")
                    found[key] = storage(dtype, _member(data, members[f"{root}data/{key}"]), count)
                return found[key]

            return read_pickle(archive.read(root + "data.pkl"), persistent=persistent)[0]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, UnicodeError) as error:
        raise DamagedCheckpointError(f"the zip archive is damaged: {error}.") from error


def _check_members(members: Mapping[str, zipfile.ZipInfo], file_size: int) -> None:
    for name, info in members.items():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnsafeCheckpointError(f"the zip member {name!r} is compressed; torch stores members as they are.")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise UnsafeCheckpointError(f"the zip member {name!r} leaves the archive's folder.")
    if sum(info.file_size for info in members.values()) > file_size:
        raise UnsafeCheckpointError("the zip members overlap: together they are larger than the file.")


def _member(data: memoryview | bytes, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored member as they lie in the file: behind its own header, name and extra field."""
    start = info.header_offset
    header = bytes(data[start : start + _HEADER.size])
    if len(header) < _HEADER.size or header[:4] != ZIP_MAGIC:
        raise DamagedCheckpointError(f"the zip member {info.filename!r} has no header.")
    start += _HEADER.size + sum(_HEADER.unpack(header)[-2:])
    view = memoryview(data)[start : start + info.file_size]
    if len(view) != info.file_size:
        raise DamagedCheckpointError(f"the zip member {info.filename!r} is truncated.")
    return view


class _File(io.RawIOBase):
    """A read-only file on bytes that are in memory already."""

    def __init__(self, data: memoryview | bytes):
        self._view, self._position = memoryview(data), 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, len(self._view))[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        found = self._view[self._position : self._position + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)


def _read_legacy(data: memoryview | bytes, offset: int) -> Any:
    """Protocol number, system facts, the object, storage keys, and per storage a count and its numbers.

    Storages come after the object, so the object is read twice: first for the sizes, then with the numbers.
    """
    version, offset = read_pickle(data, offset)
    if version != 1001:
        raise DamagedCheckpointError(f"the torch file has protocol {version!r}; allowed is 1001.")
    facts, offset = read_pickle(data, offset)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise UnsafeCheckpointError("the file is big-endian; allowed are little-endian ones.")
    start = offset
    declared: dict[str, tuple[torch.dtype, int]] = {}

    def collect(identifier: Any) -> Storage:
        dtype, key, count = _storage_id(identifier)
        if declared.setdefault(key, (dtype, count)) != (dtype, count):
            raise DamagedCheckpointError(f"the storage {key!r} is declared twice, differently.")
        return Storage(torch.empty(count, device="meta"))  # tensors on it are views of nothing

    _, offset = read_pickle(data, offset, collect)
    keys, offset = read_pickle(data, offset)
    if not isinstance(keys, list) or set(map(str, keys)) != set(declared) or len(keys) != len(declared):
        raise DamagedCheckpointError("the torch file lists other storages than its object uses.")
    found, view = {}, memoryview(data)
    for key in map(str, keys):
        dtype, count = declared[key]
        end = offset + 8 + count * dtype.itemsize
        if end > len(view) or int.from_bytes(view[offset : offset + 8], "little", signed=True) != count:
            raise DamagedCheckpointError(f"the storage {key!r} is truncated or has another size than declared.")
        found[key] = storage(dtype, view[offset + 8 : end], count)
        offset = end
    return read_pickle(data, start, lambda identifier: found[_storage_id(identifier)[1]])[0]


def _storage_id(identifier: Any) -> tuple[torch.dtype, str, int]:
    """(dtype, key, number of elements) of ``("storage", type, key, location, count[, view])``."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise DamagedCheckpointError("the torch file has a persistent id that is no storage.")
    _, kind, key, _, count = identifier[:5]
    if len(identifier) == 6 and identifier[5] is not None:
        raise UnsafeCheckpointError(
            "the torch file has views of storages (torch < 0.4); save it again with a newer torch."
        )
    if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in STORAGE_DTYPES:
        raise UnsafeCheckpointError(f"the torch file has storages of type {kind}; allowed are plain numbers.")
    if type(count) is not int or count < 0:
        raise DamagedCheckpointError(f"a storage declares {count!r} numbers.")
    return STORAGE_DTYPES[kind.name], str(key), count
