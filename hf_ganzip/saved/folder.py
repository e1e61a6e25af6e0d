# SPDX-License-Identifier: Apache-2.0
"""A saved model or pipeline as its files describe it, and the code that loads it."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..assets import ASSETS
from ..core.hub import parts_of, pipeline_class
from ..core.record import origin
from .inspection import PACKED_TENSORS, describe


_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LIBRARIES = ("hf_ganzip", "hf_ganzip.models", "diffusers", "transformers")


@dataclass(frozen=True)
class Saved:
    """A saved model or pipeline.

    Args:
        class_name: Of the model, or of the pipeline.
        is_pipeline: Whether it is one.
        parts: Component ("" for a model alone) -> what :func:`.describe` finds, ``library``, as
            :func:`library_of`, and ``dtype``: in which its full-precision weights load, "" for float32.
        origin: What it was loaded from before it was saved, as :func:`.record.origin` has it; "" if unknown.
    """

    class_name: str
    is_pipeline: bool
    parts: Mapping[str, Mapping[str, Any]]
    origin: str = ""

    @property
    def library(self) -> str:
        """Module that has the class: "hf_ganzip", "hf_ganzip.models", "diffusers" or "transformers".

        Raises:
            ValueError: None of them has it, or transformers is not installed.
        """
        found = library_of(self.class_name)
        if found is None:
            raise ValueError(
                f"the class {self.class_name!r} is in none of {', '.join(_LIBRARIES)}, as installed here."
            )
        return found


def library_of(class_name: str) -> str | None:
    """Module that has a class, ours, "diffusers" or "transformers"; None: none of them, as installed here."""
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            continue
        module = importlib.import_module(name)
        if class_name in module.__all__ if name == "hf_ganzip" else hasattr(module, class_name):
            return name
    return None


def read_saved(folder: str | Path) -> Saved:
    """Describe a model folder, or every model of a pipeline folder.

    Raises:
        FileNotFoundError: Neither ``config.json`` nor ``model_index.json``.
        ValueError: One of them is damaged or names no class.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        return _saved(folder / "config.json", {"": _part(folder)}, describe(folder)["class_name"])
    parts = {
        name: _part(folder / name)
        for name in parts_of(folder)
        if (folder / name / "config.json").is_file() and any((folder / name).glob("*.safetensors"))
    }
    return _saved(index, parts, pipeline_class(index))


def _saved(file: Path, parts: Mapping[str, Any], class_name: Any) -> Saved:
    if not isinstance(class_name, str):
        raise ValueError(
            f"{file} names no class (_class_name, architectures); a model folder is one that save_pretrained wrote."
        )
    loaded_from = json.loads(file.read_text(encoding="utf-8")).get("_name_or_path") or ""
    return Saved(class_name, file.name == "model_index.json", parts, origin(loaded_from))


def _part(folder: Path) -> dict[str, Any]:
    found = describe(folder)
    library = library_of(found["class_name"]) if isinstance(found["class_name"], str) else None
    cls = None if library is None else getattr(importlib.import_module(library), found["class_name"])
    packed, kept = {layer["name"] for layer in found["layers"]}, getattr(cls, "_keep_in_fp32_modules", None)
    return found | {"library": library, "dtype": _dtype(folder, packed, set(kept or ()))}


def _dtype(folder: Path, packed: set[str], kept: set[str]) -> str:
    """What the weights share, but for ``packed`` ones and for modules that loading has ``kept`` in float32."""
    kinds = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                module, _, tensor = name.rpartition(".")
                if not (module in packed and tensor in PACKED_TENSORS or kept & set(name.split("."))):
                    kinds.add(_DTYPES.get(tensors.get_slice(name).get_dtype()))
    found = kinds - {None}
    return "".join(found - {"float32"}) if len(found) == 1 else ""


def dtype_argument(saved: Saved) -> str:
    """ ", torch_dtype=..." of ``from_pretrained`` for the dtype of the weights, "" for float32."""
    option = _dtype_option(saved)
    if option is None:
        return ""
    if isinstance(option, str):
        return f", torch_dtype=torch.{option}"
    parts = ", ".join(f'"{name}": torch.{dtype}' for name, dtype in option.items())
    return f", torch_dtype={{{parts}}}"


def loading_snippet(saved: Saved, place: str) -> str:
    """Python code that loads ``place``, a Hub id, a folder or the name of a bundled model, in the dtype of its
    weights; it defines ``pipe`` or ``model``.

    Raises:
        ValueError: No library has the class.
    """
    library = saved.library
    own, dtype = library == "hf_ganzip", dtype_argument(saved)
    name, pipeline = ("pipe", "pipe") if saved.is_pipeline else ("model", "gz.GANPipeline(model)")
    lines = ["import hf_ganzip as gz"] if own else ["import hf_ganzip  # opens packed and pruned weights"]
    lines += ["import torch"] * bool(dtype)
    lines += [] if own else [f"from {library} import {saved.class_name}"]
    bundled = library == "diffusers" and place in ASSETS  # our classes know the names
    lines += ["from hf_ganzip.assets import asset_path"] * bundled
    quoted = json.dumps(place, ensure_ascii=False)
    arguments = (f"asset_path({quoted})" if bundled else quoted) + dtype
    lines += ["", f"{name} = {'gz.' if own else ''}{saved.class_name}.from_pretrained({arguments})"]
    lines += [pipeline_call(saved, pipeline)] if generator_of(saved) else []
    return "\n".join(lines)


def generator_of(saved: Saved) -> Mapping[str, Any]:
    """Config of the GAN generator that a folder holds, alone or in a pipeline of ours; {} without one."""
    part = saved.parts.get("generator" if saved.is_pipeline else "", {"config": {}})
    return part["config"] if saved.library == "hf_ganzip" and "z_dim" in part["config"] else {}


def pipeline_call(saved: Saved, pipeline: str) -> str:
    """Line of Python in which ``pipeline`` draws with the generator of a folder; it defines ``images``."""
    classes = "class_labels=0, " if generator_of(saved).get("num_classes") else ""
    return f'images = {pipeline}(batch_size=2, {classes}output_type="pil").images'


def open_saved(folder: str | Path, dtype: Any = None) -> Any:
    """The model or pipeline of a folder; what the loading snippet does.

    Args:
        folder: Of ``save_pretrained``.
        dtype: Of torch, for all weights in full precision; None: as they were saved.

    Raises:
        FileNotFoundError: As :func:`read_saved`.
        ValueError: As :func:`read_saved`, or no library has the class.
    """
    import torch

    saved = read_saved(folder)
    option = _dtype_option(saved)
    dtypes: Any = {name: getattr(torch, each) for name, each in option.items()} if isinstance(option, dict) else None
    if isinstance(option, str) or option is None and _has_foreign_quantization(saved):
        dtypes = getattr(torch, option or "float32")  # said aloud: quantizers of other libraries choose one otherwise
    dtypes = dtypes if dtype is None else dtype
    cls = getattr(importlib.import_module(saved.library), saved.class_name)
    return cls.from_pretrained(folder, **({} if dtypes is None else {"torch_dtype": dtypes}))


def _has_foreign_quantization(saved: Saved) -> bool:
    methods = {(part["quantization"] or {}).get("quant_method") for part in saved.parts.values()}
    return saved.library == "diffusers" and bool(methods - {None, "hf_ganzip"})


def _dtype_option(saved: Saved) -> str | dict[str, str] | None:
    """``torch_dtype`` of ``from_pretrained``: None, the name of one, or one for every part of a pipeline; transformers
    takes it from the file.
    """
    dtypes = {name: part["dtype"] for name, part in saved.parts.items()}
    if not any(dtypes.values()) or saved.library == "transformers":
        return None
    if len(set(dtypes.values())) == 1:
        return next(iter(dtypes.values()))
    return {name: dtype for name, dtype in dtypes.items() if dtype} | {"default": "float32"}
