# SPDX-License-Identifier: Apache-2.0
"""This package as a wheel, from the files that run and the metadata of the installation: no build tool, no second
description of what belongs to it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_ganzip

from ..core.shipped import shipped


_BESIDE = ("examples", "metrics_hub")  # in the package in a wheel, beside it in a checkout
_METADATA = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_DENSE = (".safetensors", ".parquet", ".png")  # compressing them again takes time and saves nothing
_WHEEL = "Wheel-Version: 1.0\nGenerator: hf_ganzip\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: str | Path) -> Path:
    """Write ``hf_ganzip-VERSION-py3-none-any.whl`` into a folder; the same bytes for the same files.

    Raises:
        RuntimeError: The metadata of the installation are of another version than the files.
    """
    name = f"hf_ganzip-{hf_ganzip.__version__}"
    target = Path(folder, f"{name}-py3-none-any.whl")
    record = []
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in _contents(f"{name}.dist-info"):
            archive.writestr(_entry(path), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}")
        own = f"{name}.dist-info/RECORD"
        archive.writestr(_entry(own), "\n".join([*record, f"{own},,", ""]))
    return target


def requirements_of(extras: Iterable[str] = ()) -> list[str]:
    """What this package needs, with ``extras``, as lines of a requirements.txt, sorted by name.

    Raises:
        RuntimeError: As :func:`write_wheel`.
        ValueError: There is no such extra.

    Example:
        >>> [line for line in requirements_of(["space"]) if line.startswith(("gradio", "numpy"))]
        ['gradio>=6.0', 'numpy>=1.26']
    """
    installed, wanted = _distribution(), sorted(extras)
    known = {canonicalize_name(name): name for name in installed.metadata.get_all("Provides-Extra") or ()}
    for extra in wanted:
        if canonicalize_name(extra) not in known:
            raise ValueError(f"hf_ganzip has no extra {extra!r}; it has {', '.join(sorted(known.values()))}.")
    found: dict[str, str] = {}
    for line in installed.requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in wanted):
            needed.marker = None
            found[canonicalize_name(needed.name)] = str(needed)
    return [found[name] for name in sorted(found)]


def _distribution() -> importlib.metadata.Distribution:
    try:
        installed = importlib.metadata.distribution("hf_ganzip")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError("hf_ganzip is not installed, only importable; pip install it to pack it.") from None
    if installed.version != hf_ganzip.__version__:
        raise RuntimeError(
            f"hf_ganzip {hf_ganzip.__version__} runs, but {installed.version} is installed; pip install it again."
        )
    return installed


def _contents(metadata: str) -> Iterator[tuple[str, bytes]]:
    """Path in the wheel and bytes of every file but RECORD."""
    package = Path(hf_ganzip.__file__).parent
    yield from _files(package, "hf_ganzip", without=_BESIDE)
    for name in _BESIDE:
        yield from _files(shipped(name), f"hf_ganzip/{name}")
    installed = _distribution()
    for name in _METADATA:
        text = installed.read_text(name)
        if text is None:
            raise RuntimeError(f"the installation of hf_ganzip lacks {name}; pip install it again.")
        yield f"{metadata}/{name}", text.encode()
    yield f"{metadata}/WHEEL", _WHEEL.encode()


def _files(folder: Path, inside: str, without: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and "__pycache__" not in parts and parts[0] not in without:
            yield "/".join((inside, *parts)), path.read_bytes()


def _entry(path: str) -> zipfile.ZipInfo:
    """Without the time, so that an unchanged package is an unchanged file."""
    entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_STORED if path.endswith(_DENSE) else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
