# SPDX-License-Identifier: Apache-2.0
"""What a quantization method returns: integer codes, and the numbers that turn them into weights again."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunks import float_dtype, row_chunks
from .rotation import on_grid, rotated, unrotated, unrotated_levels


_MANY = 2**14  # values from which on a table first is faster: of levels of half-precision numbers, or of pairs


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of weights (R, N) as codes and scales: ``w = level(code) * scale + offset``.

    Args:
        codes: (R, N) int8 in ``-2**(bits-1) .. 2**(bits-1) - 1``.
        scale: (R, 1) float32 or float16, positive; the codes were chosen with it as it is stored.
        level_offset: ``level(code) = code + level_offset``: 0 (a level at zero) or 0.5 (levels on both sides of zero).
        codebook: (2**bits,) float16, as it is stored; if given, ``level(code) = codebook[code + 2**(bits-1)]``.
        offset: (R, 1) in the dtype of ``scale``; None means 0.
        sources: (n,) int16, for methods that split input channels: the last n of N + n columns are added to the
            columns ``sources``.
        up: (O, r) float16, with ``down`` (r, C) a low rank that is added to the weight (O, C), output channels first;
            None for none.
        down: See ``up``.
        rotation: Size of the blocks in which the rows of the weight (O, C) were rotated before, see :mod:`.rotation`;
            0 for none.
    """

    codes: Tensor
    scale: Tensor
    level_offset: float = 0.0
    codebook: Tensor | None = None
    offset: Tensor | None = None
    sources: Tensor | None = None
    up: Tensor | None = None
    down: Tensor | None = None
    rotation: int = 0

    def values(self) -> Tensor:
        """Dequantized rows (R, N) float32, before split columns are folded, still rotated and without the low rank."""
        return to_values(self._index(), self.scale, self.level_offset, self.codebook, self.offset)

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        """The whole weight, float32 of ``shape``, output channels first."""
        names = ("level_offset", "codebook", "offset", "sources", "rotation", "up", "down")
        parts = {name: getattr(self, name) for name in names} | {"scaled_last": self.scaled_last(shape[0])}
        return to_channels(self._index(), self.scale, shape, **parts).view(shape)

    def scaled_last(self, outputs: int) -> bool:
        """Whether rows of a weight of ``outputs`` output channels can be rotated back before they are scaled, which is
        exact and one matrix product.
        """
        even = self.codebook is None or torch.equal(on_grid(self.codebook), self.codebook)
        plain = self.offset is None and self.sources is None and len(self.scale) <= outputs
        return bool(self.rotation) and even and plain

    def _index(self) -> Tensor:
        return self.codes.int() + (0 if self.codebook is None else len(self.codebook) // 2)

    def target(self, weight: Tensor) -> Tensor:
        """What the codes are to stand for in ``weight`` (O, ...), output channels first: no low rank, rotated."""
        left = weight.detach().flatten(1)
        if self.up is not None and self.down is not None:
            left = left.clone()
            add_low_rank_(left, -self.up, self.down)
        return (rotated(left, self.rotation) if self.rotation else left).view(weight.shape)


def to_channels(
    codes: Tensor,
    scale: Tensor,
    shape: tuple[int, ...],
    *,
    level_offset: float = 0.0,
    codebook: Tensor | None = None,
    offset: Tensor | None = None,
    sources: Tensor | None = None,
    rotation: int = 0,
    scaled_last: bool = False,
    up: Tensor | None = None,
    down: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Output channels (O, C) float32 of a weight of ``shape`` (O, I, ...) from what :class:`QuantizedRows` and
    :func:`to_values` describe.

    Memory of ``out``, contiguous, is used if it is given, but where split channels are folded or rows are rotated back
    after they were scaled.
    """
    direct = None if scaled_last or rotation or sources is not None else out
    values = to_values(codes, None if scaled_last else scale, level_offset, codebook, offset, direct)
    if sources is not None:
        values = fold_channels(values.view(shape[0], shape[1] + len(sources), -1), sources)
    values = values.view(shape[0], -1)
    if scaled_last:
        values = unrotated_levels(values, rotation, out).view(scale.shape[0], -1).mul_(scale).view(shape[0], -1)
    elif rotation:
        values = unrotated(values, rotation)
    if up is not None and down is not None:
        add_low_rank_(values, up, down)
    return values


def to_values(
    codes: Tensor,
    scale: Tensor | None,
    level_offset: float = 0.0,
    codebook: Tensor | None = None,
    offset: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Float32 values of ``codes`` (R, N): signed ones, or indices into ``codebook``; their levels where ``scale`` is
    None; written to ``out``, contiguous, if it
    is given."""
    values = torch.empty(codes.shape, device=codes.device) if out is None else out.view(codes.shape)
    if codebook is None:
        values.copy_(codes)
        values = values.add_(level_offset) if level_offset else values
    else:
        table, index, found = codebook.float(), codes.flatten(), values.view(-1)
        if _in_pairs(codes, table):
            table, index, found = _pairs(table), index.view(torch.int16), found.view(torch.float64)
        torch.index_select(table, 0, index.int(), out=found)
    if scale is not None:
        values.mul_(scale)
    return values if offset is None else values.add_(offset)


def _in_pairs(codes: Tensor, table: Tensor) -> bool:
    stored = codes.dtype == torch.uint8 and codes.device.type == "cpu" and not torch.compiler.is_compiling()
    many = codes.numel() >= _MANY and not codes.numel() % 2 and len(table) <= 32
    return stored and many and sys.byteorder == "little"


def _pairs(table: Tensor) -> Tensor:
    """Pairs of levels as float64, at the numbers that two codes are as one of 16 bits: half as many to look up."""
    found = torch.zeros(len(table), 256, 2)
    found[:, : len(table), 0], found[:, : len(table), 1] = table, table[:, None]
    return found.view(torch.float64).view(-1)


def fold_channels(values: Tensor, sources: Tensor) -> Tensor:
    """Add the last ``len(sources)`` input channels of (O, I + n, K) to the channels they were split from: (O, I, K)."""
    kept = values.shape[1] - len(sources)
    return values[:, :kept].index_add(1, sources.int(), values[:, kept:])


def add_low_rank_(weight: Tensor, up: Tensor, down: Tensor) -> None:
    """Add ``up`` (O, r) times ``down`` (r, C), float16, to ``weight`` (O, C), one rank after the other.

    Products of two float16 are exact in float32: the same bits by any kernel and in any parts, unlike those of a
    matrix product.
    """
    for column, row in zip(up.to(weight.dtype).t(), down.to(weight.dtype)):
        weight.addcmul_(column[:, None], row)


def stored_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``scale`` in ``dtype``, 0 as 1; all in float32 if one overflowed in float16 or lost precision there."""
    scale = scale.float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if dtype == torch.float16 and bool(((scale < 2**-14) | (scale > 65504)).any()):
        return scale
    return scale.to(dtype)


def round_to_codes(
    rows: Tensor,
    threshold: Tensor,
    bits: int,
    *,
    lowest: int | None = None,
    scale_dtype: torch.dtype = torch.float32,
) -> QuantizedRows:
    """Round to nearest, ties to even, with the scale that maps ``threshold`` to the largest code.

    Args:
        rows: (R, N) floats.
        threshold: (R, 1), the largest magnitude that is not clipped.
        bits: 2 to 8.
        lowest: Smallest code; None means ``-(2**(bits-1) - 1)``, symmetric to the largest.
        scale_dtype: Of the stored scale.
    """
    highest = 2 ** (bits - 1) - 1
    scale = stored_scale(threshold / highest, scale_dtype)
    codes = torch.round(rows / scale.to(rows.dtype)).clamp_(-highest if lowest is None else lowest, highest)
    return QuantizedRows(codes.to(torch.int8), scale)


def nearest_codes(
    values: Tensor,
    scale: Tensor,
    bits: int,
    *,
    level_offset: float = 0.0,
    codebook: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Codes int8 of the levels nearest to ``values``; all arguments as in :class:`QuantizedRows`, scales broadcastable.

    Of a codebook and 2^14 values or more, of those nearest to the half precision of what is to be expressed, 5e-4 of
    it away.
    """
    codes = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    dtype = float_dtype(values)
    scale, offset = scale.to(dtype), None if offset is None else offset.to(dtype)
    half, start = 2 ** (bits - 1), 0
    if codebook is not None:
        ordered, index = codebook.to(dtype).sort()
        edges, index = (ordered[1:] + ordered[:-1]) / 2, (index - half).to(torch.int8)
        ascending = bool((index[1:] > index[:-1]).all())
        table = _table_of_places(edges) if values.numel() >= _MANY else None
    memory = None
    for part in row_chunks(values):
        here, start = slice(start, start + len(part)), start + len(part)
        memory = torch.empty_like(part) if memory is None else memory
        levels = memory[: len(part)]
        part = part if offset is None else part - _of_rows(offset, here)
        torch.div(part, _of_rows(scale, here), out=levels)
        if codebook is None:
            codes[here] = levels.sub_(level_offset).round_().clamp_(-half, half - 1)
        else:
            places = _places(levels, edges, table)
            codes[here] = places.sub_(half) if ascending else index[places.int()]
    return codes


def _of_rows(numbers: Tensor, rows: slice) -> Tensor:
    return numbers[rows] if numbers.ndim and len(numbers) > 1 else numbers


def _table_of_places(edges: Tensor) -> Tensor:
    """(65536,) int32: how many of the ascending ``edges``, at most 255, lie below the float16 of these bits."""
    magnitudes = torch.arange(0x7C01, device=edges.device)  # bits of zero to infinity; those of negatives begin with 1
    bits = torch.cat([0x8000 + magnitudes.flip(0), magnitudes])
    ascending = bits.to(torch.int16).view(torch.float16).to(edges.dtype)
    above = torch.searchsorted(ascending, edges, right=True)
    places = torch.bincount(above, minlength=len(bits) + 1)[:-1].cumsum(0).int()
    return torch.zeros(2**16, dtype=torch.int32, device=edges.device).scatter_(0, bits, places)


def _places(values: Tensor, edges: Tensor, table: Tensor | None) -> Tensor:
    """How many of the ascending ``edges`` lie below each of ``values``, by a table of half precision, if given."""
    if table is None:
        return torch.searchsorted(edges, values, out_int32=True)
    bits = values.half().view(torch.uint16).int()
    return torch.index_select(table, 0, bits.view(-1)).view(values.shape)
