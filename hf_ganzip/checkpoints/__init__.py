# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints as models of this library. Nothing in a checkpoint is executed."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusers import ModelMixin

from ..core.hub import model_folder
from . import biggan, biggan_deep, rosinality, stylegan_tensorflow, stylegan_torch, ugatit
from .build import card, checked_state
from .pickle_reader import CheckpointError, DamagedCheckpointError, UnsafeCheckpointError
from .torch_file import LEGACY_MAGIC, ZIP_MAGIC, read_pickle, read_torch


CONVERTERS: dict[str, ModuleType] = {
    "stylegan-torch": stylegan_torch,
    "stylegan-tensorflow": stylegan_tensorflow,
    "rosinality": rosinality,
    "biggan": biggan,
    "biggan-deep": biggan_deep,
    "ugatit": ugatit,
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = ("pytorch_model.bin", "model.safetensors", "diffusion_pytorch_model.safetensors")
_SUFFIXES = (".pkl", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar", ".zip")  # of files, not of Hub ids
_MAX_CONFIG = 1 << 20  # bytes


def convert(
    path: str | Path,
    *,
    network: str = "G_ema",
    license: str | None = None,
    url: str = "",
    revision: str | None = None,
) -> ModelMixin:
    """Open a foreign checkpoint; its format is detected.

    Args:
        path: A file, a folder with ``config.json`` and ``pytorch_model.bin`` (BigGAN-deep), or the Hub id of one.
        network: "G_ema" (averaged generator), "G" or "D"; for U-GAT-IT also its own names, such as "genB2A".
        license: Licence of the weights, if you know it. Otherwise the model is labelled "other".
        url: Where the file was found, for the record.
        revision: Of a Hub repository.

    Returns:
        The model in eval mode, float32, CPU. Its config has the origin under ``_ganzip_source``.

    Raises:
        FileNotFoundError: No such file.
        UnsafeCheckpointError: The checkpoint asks for anything but tensors and plain data.
        DamagedCheckpointError: It is truncated or contradictory.
        CheckpointError: Its format or variant is not known, or it lacks the network.
    """
    path, url = _local(path, revision, url)
    notes: list[str] = []
    try:
        file = _weights_file(path) if path.is_dir() else path
        with ThreadPoolExecutor(1) as second:
            data = _read_bytes(file)
            digest = second.submit(lambda: hashlib.sha256(data).hexdigest())  # while the rest goes on
            name, model = _open(path, _parse(file, data), network, notes)
            sha256 = digest.result()
    except RecursionError as error:
        raise UnsafeCheckpointError(f"{path.name} nests objects too deeply.") from error
    except CheckpointError as error:
        raise type(error)(f"{path.name}: {error}") from error
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(f"{path.name}: its contents do not fit together: {error!r}.") from error
    licence = {"license": license or CONVERTERS[name].LICENSE, "stated": license is not None}
    source = {"format": name, "file": file.name, "sha256": sha256, "network": network, "url": url, **licence}
    model.register_to_config(_ganzip_source=source | {"notes": notes})
    return model


def _open(path: Path, data: Any, network: str, notes: list[str]) -> tuple[str, ModelMixin]:
    """(format, model)."""
    if path.is_dir():
        options = _read_config(path / "config.json")
        if not biggan_deep.matches_folder(options):
            raise CheckpointError(
                "this is no BigGAN-deep folder; folders of this library are opened by gz.load_model."
            )
        if network not in ("G_ema", "G"):
            raise CheckpointError(f"BigGAN-deep checkpoints have no network {network!r}; allowed are G_ema, G.")
        return "biggan-deep", biggan_deep.convert_biggan_deep(options, checked_state(data, "the file of weights"))
    name = next((name for name, converter in CONVERTERS.items() if converter.matches(data)), None)
    if name is None:
        raise CheckpointError(f"it holds {_description(data)}; known formats are {', '.join(CONVERTERS)}.")
    return name, CONVERTERS[name].convert(data, network, notes)


def save_converted(model: ModelMixin, folder: str | Path) -> None:
    """Write the model and its card."""
    model.save_pretrained(folder)
    Path(folder, "README.md").write_text(card(model), encoding="utf-8")


def _read_bytes(path: Path) -> memoryview:
    """The file, mapped privately: tensors may lie in it, and nothing is written back."""
    if not path.stat().st_size:
        return memoryview(b"")
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _parse(path: Path, data: memoryview) -> Any:
    """Data of a torch file (zip or legacy), a pickle or a safetensors file; nothing of it runs."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(bytes(data))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(f"{error!r}.") from error
    if data[:4] == ZIP_MAGIC:
        return read_torch(data)
    found, _ = read_pickle(data)
    return read_torch(data) if found == LEGACY_MAGIC else found


def _local(path: str | Path, revision: str | None, url: str) -> tuple[Path, str]:
    local = Path(path)
    if local.exists():
        return local, url
    if isinstance(path, str) and _HUB_ID.fullmatch(path) and local.suffix not in _SUFFIXES:
        return model_folder(
            path, patterns=["config.json", *_WEIGHTS], revision=revision
        ), url or f"https://hf.co/{path}"
    raise FileNotFoundError(f"there is no file or folder {path}.")


def _weights_file(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"the folder has none of {', '.join(_WEIGHTS)}.")


def _read_config(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError("the folder has no config.json.")
    if path.stat().st_size > _MAX_CONFIG:
        raise UnsafeCheckpointError(f"{path.name} has {path.stat().st_size:,} bytes; allowed are {_MAX_CONFIG:,}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path.name} is no JSON: {error}.") from error


def _description(data: Any) -> str:
    if isinstance(data, dict):
        keys = [str(key) for key in list(data)[:5]]
        return f"a dict with {', '.join(keys) or 'nothing'}"
    return f"a {type(data).__name__}"
