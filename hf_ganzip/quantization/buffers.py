# SPDX-License-Identifier: Apache-2.0
"""Buffers of a packed weight: from codes and scales of rows to tensors of a saved form, and back to a weight."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .chunks import float_dtype
from .grid import QuantizedRows, to_channels
from .layout import PackedLayout
from .packing import pack, unpack


INPUT_RANGE = ("input_scale", "input_zero_point")
_OF_WEIGHT = ("codes", "scale", "offset", "codebook", "sources", "up", "down")
BUFFERS = (*(f"weight_{part}" for part in _OF_WEIGHT), *INPUT_RANGE)
_LARGE = 2**20  # codes from which on errors are those of an eighth of the output channels
_CHUNK = 2**17  # weights that a core unpacks at once: their intermediate values fit its cache
_KEPT = 2**26  # bytes


def pack_rows(quantized: QuantizedRows, layout: PackedLayout) -> dict[str, Tensor]:
    """Buffers of a packed layer by name."""
    found = {
        "weight_codes": pack_codes(quantized.codes, layout.bits),
        "weight_scale": quantized.scale,
        "weight_offset": quantized.offset,
        "weight_codebook": None if quantized.codebook is None else quantized.codebook.half(),
        "weight_sources": quantized.sources,
        "weight_up": quantized.up,
        "weight_down": quantized.down,
        "input_scale": torch.ones(1),  # until it is calibrated
        "input_zero_point": torch.zeros(1, dtype=torch.int32),
    }
    return {name: found[name].contiguous() for name in layout.buffers}


def unpack_rows(
    buffers: dict[str, Tensor], layout: PackedLayout, dtype: torch.dtype = torch.float32, lent: bool = False
) -> Tensor:
    """Weight of ``layout.shape``, computed in float32, from the buffers of a packed layer.

    On CPUs a few output channels at a time, so that intermediate values stay in the cache and next to no memory is
    needed besides the result, which is in memory :func:`lent <lend>` to short-lived weights if asked.
    """
    outputs = layout.moved_shape[0]
    if not buffers["weight_codes"].is_cpu or torch.compiler.is_compiling():
        values = _unpack_channels(buffers, layout, 0, outputs).view(layout.moved_shape).to(dtype)
        return values.transpose(0, 1).contiguous() if layout.axis else values
    weight = lend(layout.shape, dtype) if lent else torch.empty(layout.shape, dtype=dtype)
    direct = dtype == torch.float32 and not layout.axis and layout.unpacks_in_place
    chunk = _CHUNK * min(2, torch.get_num_threads())  # more cores were not measured
    if direct and layout.num_codes <= chunk:  # every call counts
        _unpack_channels(buffers, layout, 0, outputs, weight)
        return weight
    moved = weight.transpose(0, 1) if layout.axis else weight
    for channels in channel_parts(layout, chunk=chunk):
        part = moved[channels]
        values = _unpack_channels(buffers, layout, channels.start, channels.stop, part if direct else None)
        if not direct:
            part.copy_(values.view(part.shape))
    return weight


class _Memory(threading.local):
    kept: np.ndarray | None = None
    user: Callable[[], object] = staticmethod(lambda: None)  # the part that is lent, while a tensor of it lives


_memory = _Memory()


def lend(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Tensor with arbitrary values: in the memory of the last one if nothing of that is left, as memory that is new to
    the process costs more than unpacking into it.

    A thread keeps the memory of its largest tensor of up to ``_KEPT`` bytes; larger ones, and those that are wanted
    while another lives, get their own.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > _KEPT or _memory.user() is not None:
        return torch.empty(shape, dtype=dtype)
    if _memory.kept is None or _memory.kept.nbytes < size:
        _memory.kept = None  # first
        _memory.kept = torch.empty(size, dtype=torch.uint8).numpy()
    single = dtype == torch.float32
    part = np.ndarray(shape, np.float32 if single else f"i{dtype.itemsize}", _memory.kept)
    _memory.user = weakref.ref(part)  # a tensor keeps the array that it was made of, as do its views
    weight = torch.from_numpy(part)
    return weight if single else weight.view(dtype)


def channel_parts(layout: PackedLayout, skipping: int = 1, chunk: int = _CHUNK) -> Iterator[slice]:
    """Output channels, as many at a time as have about ``chunk`` codes, or one of ``skipping`` of these; all of them
    where scales belong to several channels, but not to all.
    """
    outputs = layout.moved_shape[0]
    if layout.rows > 1 and layout.rows % outputs:
        yield slice(0, outputs)
        return
    step = max(1, chunk * outputs // layout.num_codes)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        yield slice(start, start - (start - stop) // skipping)


def packing_error(buffers: dict[str, Tensor], layout: PackedLayout, weight: Tensor) -> tuple[float, float]:
    """Sum of squares of ``weight``, of ``layout.shape``, and of its difference to what the buffers unpack to.

    Of weights of 2^20 numbers and more, of an eighth of their output channels, evenly spread.
    """
    moved, signal, noise, memory = weight.transpose(0, 1) if layout.axis else weight, 0.0, 0.0, None
    for channels in channel_parts(layout, 8 if layout.num_codes >= _LARGE else 1):
        part = moved[channels]
        if memory is None:  # one for all parts: what is new to the process costs more than what is computed in it
            memory = [torch.empty(part.shape, dtype=float_dtype(part), device=part.device) for _ in range(2)]
        exact, values = (each[: len(part)] for each in memory)
        exact.copy_(part)
        direct = layout.unpacks_in_place and exact.dtype == torch.float32
        found = _unpack_channels(buffers, layout, channels.start, channels.stop, values if direct else None)
        torch.sub(exact, found.view(exact.shape), out=values)
        signal += float(torch.dot(exact.view(-1), exact.view(-1)))
        noise += float(torch.dot(values.view(-1), values.view(-1)))
    return signal, noise


def _unpack_channels(
    buffers: dict[str, Tensor], layout: PackedLayout, start: int, stop: int, out: Tensor | None = None
) -> Tensor:
    """Output channels ``start`` to ``stop``, float32; written to ``out``, contiguous, if it is given."""
    outputs, *inner = layout.moved_shape
    length, bits, codebook = layout.num_codes // outputs, layout.bits, buffers.get("weight_codebook")
    codes = unpack(buffers["weight_codes"], bits, layout.num_codes, start * length, stop * length)
    zero = 2 ** (bits - 1) if codebook is None else 0  # the stored number of code 0; so small it is exact as a float
    scale, offset, up = buffers["weight_scale"], buffers.get("weight_offset"), buffers.get("weight_up")
    if stop - start < outputs:
        up = None if up is None else up[start:stop]
        if per_channel := layout.rows // outputs:  # else one scale for all, or one for several channels
            rows = slice(start * per_channel, stop * per_channel)
            scale, offset = scale[rows], None if offset is None else offset[rows]
    return to_channels(
        codes.view(scale.shape[0], -1),
        scale,
        (stop - start, *inner),
        level_offset=layout.level_offset - zero,
        codebook=codebook,
        offset=offset,
        sources=buffers.get("weight_sources"),
        rotation=layout.rotation,
        scaled_last=layout.scaled_last,
        up=up,
        down=buffers.get("weight_down"),
        out=out,
    )


def unpack_codes(buffers: dict[str, Tensor], layout: PackedLayout) -> Tensor:
    """Signed codes (num_codes,) int8."""
    return unpack(buffers["weight_codes"], layout.bits, layout.num_codes).sub_(2 ** (layout.bits - 1)).view(torch.int8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Signed codes in ``-2**(bits-1) .. 2**(bits-1) - 1`` (any shape) to packed bytes."""
    return pack(codes.contiguous().view(torch.uint8) + 2 ** (bits - 1), bits)  # modulo 256
