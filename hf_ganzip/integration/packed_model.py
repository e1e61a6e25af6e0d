# SPDX-License-Identifier: Apache-2.0
"""Packed layers of whole models: allocated from a config, verified, and written into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import nn

from ..core.record import Step, recorded_steps
from ..quantization.folding import remove_parametrization_
from ..quantization.fused import FUSED
from ..quantization.layout import PackedLayout
from ..quantization.packed import digests, pack_module_, packed_modules, packed_parameters


class GanzipMethod(str, Enum):
    """``quant_method`` in ``config.json``; diffusers asks for its ``.value``."""

    GANZIP = "hf_ganzip"


def refuse_disk(device_map: Any) -> None:
    """Check a ``device_map`` of ``from_pretrained``.

    Raises:
        ValueError: It puts weights on disk.
    """
    placed = device_map.values() if isinstance(device_map, dict) else [device_map]
    if any(str(device) == "disk" for device in placed):
        raise ValueError("device_map puts packed weights on disk, where they cannot be unpacked; use cpu or a device.")


def refuse_fused(state_dict: Mapping[str, Any]) -> None:
    """Check what ``save_pretrained`` is to write.

    Raises:
        ValueError: An adapter is fused into a packed layer.
    """
    fused = [name.rpartition(".")[0] for name in state_dict if name.endswith(f".{FUSED[0]}")]
    if fused:
        raise ValueError(
            f"save_pretrained: an adapter is fused into {fused[0]} ({len(fused)} packed layers in all), and a packed "
            "folder holds none. Call unfuse_lora and save the adapter by itself; or dequantize_, which keeps it in "
            "the weights, and quantize_ again."
        )


def allow_casting_(cls: type, *names: str) -> None:
    """Let ``to``, ``half`` and ``float`` of a library's models cast packed ones; harmless when repeated.

    The libraries refuse to cast whatever is quantized. Packed layers take it: they cast what they compute with, and
    codes and scales stay exact.
    """
    for name in names:
        if not hasattr(getattr(cls, name), "of_hf_ganzip"):
            setattr(cls, name, _casting(getattr(cls, name)))


def _casting(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def cast(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        ours = getattr(model, "quantization_method", None) is GanzipMethod.GANZIP
        if not (ours and getattr(model, "is_quantized", False)):
            return method(model, *args, **kwargs)
        model.is_quantized = False
        try:
            return method(model, *args, **kwargs)
        finally:
            model.is_quantized = True

    cast.of_hf_ganzip = True
    return cast


def allocate_packed_layers_(model: nn.Module, config: Any, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Replace the weights named in ``config.layers`` by empty packed buffers on the meta device.

    Raises:
        ValueError: The table is missing, damaged, or names layers or shapes that the model does not have.
    """
    if not isinstance(config.layers, dict) or not config.layers:
        raise ValueError("config.json has quant_method 'hf_ganzip' but no layers table; the folder is damaged.")
    modules, problems = dict(model.named_modules()), []
    for name, entry in config.layers.items():
        try:
            layout = PackedLayout.from_dict(entry)
            buffers = {key: torch.empty(n, dtype=dtype, device="meta") for key, (n, dtype) in layout.buffers.items()}
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{name}: damaged entry ({error})")
            continue
        module = modules.get(name)
        if module is not None:
            remove_parametrization_(module)
        weight = getattr(module, "_parameters", {}).get("weight")
        if weight is None:
            problems.append(f"{name}: the model has no such layer")
        elif tuple(weight.shape) != layout.shape:
            problems.append(f"{name}: shape {layout.shape} in the table, {tuple(weight.shape)} in the model")
        else:
            pack_module_(module, layout, buffers, dtype=dtype_of(name), compute=config.compute)
    if problems:
        raise ValueError(f"{type(model).__name__}: config.json does not fit: {'; '.join(problems[:10])}.")
    _count_packed_parameters(type(model))


def verify_packed_layers(model: nn.Module, config: Any) -> None:
    """Compare codes and scales, which were loaded just now, with the digests in ``config.layers``.

    Raises:
        ValueError: A packed weight was changed after it was saved.
    """
    for module in packed_modules(model).values():
        module._forget()  # what was made of the buffers before
    changed = [name for name, digest in digests(model).items() if digest != config.layers[name]["digest"]]
    if changed:
        raise ValueError(
            f"{type(model).__name__}: packed weights differ from their digest in config.json: {changed[:5]}."
        )


def finish_config(model: nn.Module, config: Any, base_model: str) -> None:
    """Write the layer table and the step into the config of a model that was quantized just now."""
    _count_packed_parameters(type(model))
    found = digests(model)
    layouts = {name: module.packed_layout.to_dict() for name, module in packed_modules(model).items()}
    config.layers = {name: layout | {"digest": found[name]} for name, layout in layouts.items()}
    config.record = [*recorded_steps(model), Step("quantize", config.quantize_config.to_dict(), base_model).to_dict()]


def _count_packed_parameters(cls: type) -> None:
    """Make ``num_parameters`` of a model class count what packed weights unpack to; harmless when repeated."""
    original = cls.num_parameters
    if hasattr(original, "counts_packed"):
        return

    @functools.wraps(original)
    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        found = original(self, only_trainable, exclude_embeddings)
        return found if only_trainable else found + packed_parameters(self, embeddings=not exclude_embeddings)

    num_parameters.counts_packed = True
    cls.num_parameters = num_parameters
