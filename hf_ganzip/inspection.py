# SPDX-License-Identifier: Apache-2.0
"""Describe a saved model from its files alone, without building it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from .quantization.packed import BUFFERS
from .record import table


def describe(model_or_id: str | Path) -> dict[str, Any]:
    """Class, options, steps and sizes of a model folder or Hub id.

    Returns:
        ``class_name``, ``config`` (without the quantization), ``source`` (of converted checkpoints), ``quantization`` (None for ordinary models), ``record``,
        ``layers`` (name, bits, shape, bytes), ``tensors`` and ``file_bytes``.

    Raises:
        FileNotFoundError: No ``config.json``.
        ValueError: A damaged ``config.json`` or safetensors file.
    """
    folder = Path(model_or_id)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(model_or_id), allow_patterns=["*.json", "*.safetensors"]))
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; a model folder is one that save_pretrained wrote.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        quantization = config.pop("quantization_config", None) or {}
        layers = dict(quantization.pop("layers", None) or {})
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{config_file} is damaged: {error}.") from error
    sizes = _tensor_bytes(folder)
    return {
        "folder": str(folder),
        "class_name": config.pop("_class_name", None),
        "config": {name: value for name, value in config.items() if not name.startswith("_")},
        "source": config.get("_ganzip_source"),
        "record": quantization.pop("record", None) or config.get("_ganzip_record", []),
        "quantization": quantization or None,
        "layers": [
            {
                "name": name,
                "bits": entry["bits"],
                "shape": entry["shape"],
                "bytes": sum(sizes.get(f"{name}.{buffer}", 0) for buffer in BUFFERS),
            }
            for name, entry in layers.items()
        ],
        "tensors": len(sizes),
        "tensor_bytes": sum(sizes.values()),
        "file_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }


def format_description(description: dict[str, Any]) -> str:
    """Text for people."""
    lines = [f"{description['class_name']} in {description['folder']}"]
    lines += [f"  {name} = {value}" for name, value in description["config"].items()]
    for step in description["record"]:
        origin = f" of {step['base_model']}" if step.get("base_model") else ""
        options = dict(step["options"])
        if "kept" in options:
            options["kept"] = f"indices of {len(options['kept'])} channel sets"
        lines += [f"step {step['name']}{origin}: {json.dumps(options)}"]
    structure = (description["quantization"] or {}).get("structure")
    if structure:
        lines += [f"pruned: {len(structure['shapes'])} tensors have other shapes than the config says"]
    if description["layers"]:
        rows = [("packed layer", "bits", "shape", "bytes", "")]
        for layer in description["layers"]:
            shape = "x".join(map(str, layer["shape"]))
            rows.append((layer["name"], str(layer["bits"]), shape, f"{layer['bytes']:,}", ""))
        lines += table(rows)
    else:
        lines += ["no packed layer"]
    lines += [
        f"{description['tensors']} tensors, {description['tensor_bytes']:,} bytes; files {description['file_bytes']:,} bytes"
    ]
    return "\n".join(lines)


def _tensor_bytes(folder: Path) -> dict[str, int]:
    sizes = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    piece = tensors.get_tensor(name)
                    sizes[name] = piece.nbytes
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: {error}.") from error
    return sizes
