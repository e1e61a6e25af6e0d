# SPDX-License-Identifier: Apache-2.0
"""Describe a saved model from its files alone, without building it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..core.hub import model_folder, parts_of, pipeline_class
from ..core.record import table
from ..quantization.buffers import BUFFERS


PACKED_TENSORS = (*BUFFERS, "weight")  # transformers models have their codes under "weight"


def describe(model_or_id: str | Path, **hub_options: Any) -> dict[str, Any]:
    """Class, options, steps and sizes of a saved model, or the parts of a saved pipeline.

    Args:
        model_or_id: Folder, bundled name or Hub id.
        **hub_options: As for :func:`.model_folder`.

    Returns:
        ``folder`` and ``class_name``. Of a model ``config`` (without the quantization), ``source`` (of converted
        checkpoints), ``quantization`` (None for ordinary models), ``record``, ``layers`` (name, bits, shape, bytes),
        ``tensors``, ``tensor_bytes`` and ``file_bytes``. Of a pipeline ``parts``: name -> the same of a model, or the
        class name of something else.

    Raises:
        FileNotFoundError: No such folder, or no ``config.json`` and no ``model_index.json``.
        ConnectionError: As :func:`.model_folder`.
        ValueError: An unknown name, a damaged ``config.json`` or safetensors file.
    """
    folder = model_folder(model_or_id, **hub_options)
    if (folder / "config.json").is_file():
        return _describe_model(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; a model folder is one that save_pretrained wrote.")
    parts = {
        name: _describe_model(folder / name) if (folder / name / "config.json").is_file() else class_name
        for name, class_name in parts_of(folder).items()
    }
    return {"folder": str(folder), "class_name": pipeline_class(folder / "model_index.json"), "parts": parts}


def _describe_model(folder: Path) -> dict[str, Any]:
    config_file = folder / "config.json"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        quantization = config.pop("quantization_config", None) or {}
        layers = dict(quantization.pop("layers", None) or {})
        class_name = config.pop("_class_name", None) or next(iter(config.get("architectures") or ()), None)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{config_file} is damaged: {error}.") from error
    sizes = _tensor_bytes(folder)
    return {
        "folder": str(folder),
        "class_name": class_name,
        "config": {name: value for name, value in config.items() if not name.startswith("_") and name != "auto_map"},
        "source": config.get("_ganzip_source"),
        "record": quantization.pop("record", None) or config.get("_ganzip_record", []),
        "quantization": quantization or None,
        "layers": [
            {
                "name": name,
                "bits": entry["bits"],
                "shape": entry["shape"],
                "bytes": sum(sizes.get(f"{name}.{buffer}", 0) for buffer in PACKED_TENSORS),
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
    if "parts" in description:
        for name, part in description["parts"].items():
            lines += ["", f"{name}: " + (part if isinstance(part, str) else format_description(part))]
        return "\n".join(lines)
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
        f"{description['tensors']} tensors, {description['tensor_bytes']:,} bytes; files "
        f"{description['file_bytes']:,} bytes"
    ]
    return "\n".join(lines)


def _tensor_bytes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                sizes |= {name: tensors.get_tensor(name).nbytes for name in tensors.keys()}
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: {error}.") from error
    return sizes
