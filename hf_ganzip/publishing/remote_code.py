# SPDX-License-Identifier: Apache-2.0
"""What lets diffusers open a saved folder with ``trust_remote_code=True``: a small module, or all code in one file.

The module lies beside the weights of a model, in the folder of each part of a pipeline that needs it, and beside
``model_index.json`` where the pipeline is a class of ours. ``auto_map`` of ``config.json`` and ``model_index.json``
name it, as diffusers' ``AutoModel`` and ``DiffusionPipeline`` ask. Where hf_ganzip is imported its own classes are
taken, and the files are not executed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.hub import REMOTE_CODE
from ..models.base import DiscriminatorMixin
from ..saved.folder import Saved, generator_of, library_of, pipeline_call, read_saved
from .standalone import standalone_code


_THIN, _ALONE = f"{REMOTE_CODE}code", f"{REMOTE_CODE}alone_"
_TEXT = '''# SPDX-License-Identifier: Apache-2.0
"""{what}, opened by hf_ganzip."""

try:
    import hf_ganzip  # lets diffusers open packed and pruned weights
except ImportError as error:
    raise ImportError(
        "This repository is opened by the package hf_ganzip, which is not installed: pip install hf_ganzip"
    ) from error

{imports}


__all__ = {names}
'''


def write_code(folder: str | Path, *, standalone: bool = False) -> None:
    """Write the modules into a folder of ``save_pretrained``, and name them in its JSON files; does nothing where
    diffusers needs no code.

    Args:
        folder: Of a model or pipeline.
        standalone: Whether the code of the generator, the pipeline and the unpacking itself is written, so that nobody
            needs hf_ganzip.

    Raises:
        ValueError: ``standalone`` of a part that transformers loads, or of a discriminator.
        FileNotFoundError: As :func:`.read_saved`.
    """
    folder = Path(folder)
    saved = read_saved(folder)
    parts = {name: part for name, part in saved.parts.items() if _needs_code(part)}
    own_pipeline = saved.is_pipeline and saved.library.startswith("hf_ganzip")
    if not parts and not own_pipeline:
        return
    classes = sorted({part["class_name"] for part in parts.values()} | ({saved.class_name} if own_pipeline else set()))
    if standalone:
        _check_standalone(parts)
    elif not saved.is_pipeline and saved.library == "transformers":
        return  # its quantizer is registered by `import hf_ganzip` alone
    name, text = _standalone(parts, classes) if standalone else _thin(classes)
    for place in [*parts, ""] if own_pipeline else parts:
        (folder / place / f"{name}.py").write_text(text, encoding="utf-8")
    for part, found in parts.items():
        if found["library"] != "transformers":
            _change(folder / part / "config.json", {"auto_map": {"AutoModel": f"{name}.{found['class_name']}"}})
    if saved.is_pipeline:
        _change(folder / "model_index.json", _index_of(saved, parts, own_pipeline, name))


def is_standalone(file: str) -> bool:
    """Whether a module beside weights needs no package of ours, by its name."""
    return file.startswith(_ALONE)


def remote_snippet(saved: Saved, place: str, dtype: str) -> str:
    """Python code that loads ``place`` with ``trust_remote_code=True``; it defines ``pipe`` or ``model``, and draws
    where that is a GAN of ours in float32.

    Args:
        saved: The files.
        place: Hub id or folder.
        dtype: Further argument, ", torch_dtype=...", or "".
    """
    name, cls = ("pipe", "DiffusionPipeline") if saved.is_pipeline else ("model", "AutoModel")
    drawing = ""
    if generator_of(saved) and not dtype:
        drawing = "\n" + (pipeline_call(saved, "pipe") if saved.is_pipeline else _model_call(saved))
    head = "import torch\n" if "torch." in dtype + drawing else ""
    quoted = json.dumps(place, ensure_ascii=False)
    load = f"{name} = {cls}.from_pretrained({quoted}, trust_remote_code=True{dtype})"
    return f"{head}from diffusers import {cls}\n\n{load}{drawing}"


def _model_call(saved: Saved) -> str:
    config = generator_of(saved)
    labels = ", torch.tensor([0, 0])" if config.get("num_classes") else ""
    return f"images = model(torch.randn(2, {config['z_dim']}){labels}).sample  # (2, C, H, W) about [-1, 1]"


def _needs_code(part: Mapping[str, Any]) -> bool:
    """Whether diffusers cannot open it: a class of ours, or packed or pruned weights."""
    ours = (part["quantization"] or {}).get("quant_method") in ("hf_ganzip", "ganzip")
    return ours or (part["library"] or "").startswith("hf_ganzip")


def _check_standalone(parts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, part in parts.items():
        where, cls = (name or "the model"), part["class_name"]
        if part["library"] == "transformers":
            raise ValueError(
                f"standalone: transformers loads {where}, a {cls}; a file of torch and diffusers cannot. Leave out "
                "standalone."
            )
        if issubclass(getattr(importlib.import_module(part["library"]), cls), DiscriminatorMixin):
            raise ValueError(
                f"standalone: {where} is a {cls}, which is trained with hf_ganzip; allowed are generators, and "
                "classes of diffusers."
            )


def _thin(classes: Sequence[str]) -> tuple[str, str]:
    """Name and text of the module that imports hf_ganzip."""
    lines = [f"from {library_of(name)} import {name}" for name in classes]
    return _THIN, _TEXT.format(what=" and ".join(classes), imports="\n".join(lines), names=json.dumps(classes))


def _standalone(parts: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> tuple[str, str]:
    """Name and text of the module that needs no package of ours."""
    roots = [(getattr(importlib.import_module(str(library_of(name))), name).__module__, name) for name in classes]
    roots = [(module if module.startswith("hf_ganzip") else "diffusers", name) for module, name in roots]
    packed = any(part["quantization"] for part in parts.values())
    title = f"{' and '.join(classes)}: the model, its pipeline and its packed weights."
    text = standalone_code(title, roots, opens_packed=packed)
    # Named by its content: diffusers copies the files of all local folders into one package, by their names.
    return f"{_ALONE}{hashlib.sha256(text.encode()).hexdigest()[:8]}", text


def _index_of(saved: Saved, parts: Mapping[str, Any], own_pipeline: bool, name: str) -> dict[str, Any]:
    changes: dict[str, Any] = {part: [name, found["class_name"]] for part, found in parts.items()}
    if own_pipeline:
        changes["_class_name"] = [name, saved.class_name]
    networks = [part for part, found in saved.parts.items() if found["library"] != "transformers"]
    if len(networks) == 1 and networks[0] in parts:  # AutoModel looks here for the class of any subfolder
        changes["auto_map"] = {"AutoModel": f"{name}.{parts[networks[0]]['class_name']}"}
    return changes


def _change(file: Path, changes: Mapping[str, Any]) -> None:
    found = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
