# SPDX-License-Identifier: Apache-2.0
"""One weight: cut into rows that have a scale of their own, quantized, and packed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .buffers import pack_rows, packing_error
from .calibration import TRANSPOSED, channels_first
from .chunks import as_float
from .config import LayerSettings
from .folding import folded_weight, is_parametrized
from .grid import QuantizedRows
from .layout import SCALE_DTYPES, PackedLayout
from .low_rank import with_low_rank
from .packed import PackedWeightMixin
from .rotation import block_of, on_grid, rotated


_FEW_BITS = 4  # up to which levels lie so far apart that rounding them to a grid of 8 bits costs nothing


@dataclass(frozen=True)
class QuantizedWeight:
    """Buffers of one packed layer before they are put into its module."""

    layout: PackedLayout
    buffers: dict[str, Tensor]
    sqnr_db: float | None


def quantize_weight(module: nn.Module, settings: LayerSettings, weight: Tensor | None = None) -> QuantizedWeight:
    """Quantize one weight, ``weight`` or else ``module.weight``, which may not be loaded yet; ``module`` stays."""
    rows = weight_rows(module, settings, weight)
    shape = channels_first_shape(module)
    return pack_quantized(module, settings, quantize_rows(rows, shape, settings), weight)


def weight_rows(module: nn.Module, settings: LayerSettings, weight: Tensor | None = None) -> Tensor:
    """The weight cut into rows with a scale of their own, (R, N); output channels first.

    float32 or float64, or as it is for methods that cast some rows at a time and have no offset.
    """
    weight = (folded_weight(module) if weight is None else weight).detach()
    as_it_is = settings.symmetric and getattr(settings.method, "casts_rows", False)
    values = weight if as_it_is else as_float(weight)
    moved = channels_first(module, values)
    rows = {"tensor": 1, "channel": len(moved), "group": moved.numel() // settings.group_size}[settings.granularity]
    return moved.reshape(rows, -1)


def quantize_rows(rows: Tensor, shape: tuple[int, ...], settings: LayerSettings) -> QuantizedRows:
    """Quantize ``rows`` (R, N) of a weight of ``shape``, output channels first; beside a low rank, if one is asked.

    Raises:
        ValueError: The method returned a scale that is not finite.
    """
    if not settings.svd_rank:
        return _codes_of_rows(rows, shape, settings)
    return with_low_rank(
        as_float(rows).reshape(shape),
        settings.svd_rank,
        lambda left: _codes_of_rows(left.reshape(rows.shape), shape, settings),
    )


def _codes_of_rows(rows: Tensor, shape: tuple[int, ...], settings: LayerSettings) -> QuantizedRows:
    block = block_of(math.prod(shape[1:])) if settings.hadamard else 0
    if block:
        rows = rotated(as_float(rows).reshape(shape[0], -1), block).reshape(rows.shape)
    method, dtype = settings.method, SCALE_DTYPES[settings.scale_dtype]
    if hasattr(method, "quantize_channels"):
        found = method.quantize_channels(rows.reshape(shape[0], shape[1], -1), settings.bits, len(rows), dtype)
    elif settings.symmetric:
        found = method(rows, settings.bits, dtype)
    else:
        center = method.center(rows) if hasattr(method, "center") else rows.mean(dim=1, keepdim=True)
        center = center.to(dtype) if bool(torch.isfinite(center.to(dtype)).all()) else center.float()
        found = method(rows - center.to(rows.dtype), settings.bits, dtype)
        found = dataclasses.replace(found, offset=center.to(found.scale.dtype))
    if not torch.isfinite(found.scale).all():
        raise ValueError(
            f"quantize_: {settings.method_name} gave a scale that is not finite; the weights exceed float32."
        )
    if block and found.codebook is not None and settings.bits <= _FEW_BITS:
        found = dataclasses.replace(found, codebook=on_grid(found.codebook))
    return dataclasses.replace(found, rotation=block)


def pack_quantized(
    module: nn.Module, settings: LayerSettings, found: QuantizedRows, weight: Tensor | None = None
) -> QuantizedWeight:
    """Layout, buffers and error of quantized rows; ``module`` is not changed."""
    weight = folded_weight(module) if weight is None else weight
    layout = PackedLayout(
        settings.bits,
        tuple(weight.shape),
        len(found.scale),
        axis=int(isinstance(module, TRANSPOSED)),
        scale_dtype=str(found.scale.dtype).removeprefix("torch."),
        level_offset=found.level_offset,
        codebook=found.codebook is not None,
        offset=found.offset is not None,
        splits=0 if found.sources is None else len(found.sources),
        rank=0 if found.up is None else found.up.shape[1],
        rotation=found.rotation,
        scaled_last=found.scaled_last(channels_first_shape(module)[0]),
    )
    if not layout.not_integers():
        layout = dataclasses.replace(layout, activations=settings.activations or "")
    buffers = pack_rows(found, layout)
    signal, noise = packing_error(buffers, layout, weight.detach())
    return QuantizedWeight(layout, buffers, 10 * math.log10(signal / noise) if signal and noise else None)


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, PackedWeightMixin):
        return module.packed_layout.shape
    weight = folded_weight(module) if is_parametrized(module) else module.weight
    return tuple(weight.shape)  # type: ignore[arg-type]


def channels_first_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of the weight of ``module``, output channels first."""
    shape = weight_shape(module)
    return (shape[1], shape[0], *shape[2:]) if isinstance(module, TRANSPOSED) else shape
