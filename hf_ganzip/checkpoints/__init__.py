# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints as models of this library. Nothing in a checkpoint is executed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusers import ModelMixin

from . import biggan, biggan_deep, rosinality, stylegan_tensorflow, stylegan_torch, ugatit
from .errors import CheckpointError, DamagedCheckpointError, UnsafeCheckpointError
from .source import Source, card, sha256_of
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
        name, file, model = _open(path, network, notes)
    except RecursionError as error:
        raise UnsafeCheckpointError(f"{path.name} nests objects too deeply.") from error
    except CheckpointError as error:
        raise type(error)(f"{path.name}: {error}") from error
    source = Source(
        format=name,
        file=file.name,
        sha256=sha256_of(file),
        network=network,
        url=url,
        license=license or CONVERTERS[name].LICENSE,
        stated=license is not None,
        notes=tuple(notes),
    )
    model.register_to_config(_ganzip_source=source.to_dict())
    return model


def _open(path: Path, network: str, notes: list[str]) -> tuple[str, Path, ModelMixin]:
    """(format, file with the weights, model)."""
    if path.is_dir():
        options, file = _read_config(path / "config.json"), _weights_file(path)
        if not biggan_deep.matches_folder(options):
            raise CheckpointError(
                "this is no BigGAN-deep folder; folders of this library are opened by gz.load_model."
            )
        if network == "D":
            raise CheckpointError("BigGAN-deep checkpoints have no discriminator.")
        return "biggan-deep", file, biggan_deep.convert_biggan_deep(options, _state_dict(read_checkpoint(file)))
    data = read_checkpoint(path)
    name = next((name for name, converter in CONVERTERS.items() if converter.matches(data)), None)
    if name is None:
        raise CheckpointError(f"it holds {_description(data)}; known formats are {', '.join(CONVERTERS)}.")
    return name, path, CONVERTERS[name].convert(data, network, notes)


def save_converted(model: ModelMixin, folder: str | Path) -> None:
    """Write the model and its card."""
    model.save_pretrained(folder)
    source = Source(**{**model.config["_ganzip_source"], "notes": tuple(model.config["_ganzip_source"]["notes"])})
    Path(folder, "README.md").write_text(card(model, source), encoding="utf-8")


def read_checkpoint(path: str | Path) -> Any:
    """Data of a torch file (zip or legacy), a pickle or a safetensors file; nothing of it runs.

    Raises:
        UnsafeCheckpointError: It asks for anything but tensors and plain data.
        DamagedCheckpointError: It is truncated or contradictory.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    data = path.read_bytes()
    if data[:4] == ZIP_MAGIC:
        return read_torch(data)
    found, _ = read_pickle(data)
    return read_torch(data) if found == LEGACY_MAGIC else found


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedCheckpointError(f"{error}.") from error


def _local(path: str | Path, revision: str | None, url: str) -> tuple[Path, str]:
    local = Path(path)
    if local.exists():
        return local, url
    if isinstance(path, str) and _HUB_ID.fullmatch(path) and not local.suffix:
        from huggingface_hub import snapshot_download

        patterns = ["config.json", *_WEIGHTS]
        return Path(
            snapshot_download(path, revision=revision, allow_patterns=patterns)
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


def _state_dict(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise DamagedCheckpointError(f"the weights are {_description(data)}, not a dict of tensors.")
    return data


def _description(data: Any) -> str:
    if isinstance(data, dict):
        keys = [str(key) for key in list(data)[:5]]
        return f"a dict with {', '.join(keys) or 'nothing'}"
    return f"a {type(data).__name__}"
