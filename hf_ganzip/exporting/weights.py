# SPDX-License-Identifier: Apache-2.0
"""Weights of a graph as they are stored: packed integers, their scales, and operators that make floats of them.

The operators depend on nothing but stored tensors, so that a runtime can compute them once, when it opens the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..quantization.layout import PackedLayout
from ..quantization.packing import PLANES, unpack
from ..quantization.rotation import unrotating
from .libraries import library


FIRST_OPSET, LAST_OPSET = 21, 25  # 4-bit types; 2-bit types
_PLANES = "packed bytes"


@dataclass(frozen=True)
class StoredWeight:
    """How one packed weight is stored.

    Args:
        name: Tensor name.
        bits: Of its codes.
        stored_as: Type of the codes in the file, such as "int4"; indices into a codebook are unsigned. "packed bytes":
            as our files have them, where no type is that narrow.
        bytes: Of codes, scales and what else the weight needs.
        packed_bytes: Of the same in our packed form.
    """

    name: str
    bits: int
    stored_as: str
    bytes: int
    packed_bytes: int


def store_weights_(
    graph_model: Any, builder: Builder, tensors: Mapping[str, Tensor], packed: Mapping[str, nn.Module]
) -> list[StoredWeight]:
    """Turn the inputs of a traced graph that are tensors of the model into what is stored, and drop unused ones.

    Args:
        graph_model: Of :func:`.trace`.
        builder: Of its initializers.
        tensors: Tensors by name, in the dtypes in which they are stored.
        packed: Weight name -> packed layer.
    """
    graph, found = graph_model.graph, []
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        name, value.name = value.name, None
        if value.uses():
            layer = packed.get(name)
            new = builder.floating(name, tensors[name]) if layer is None else builder.packed(name, layer)
            library("onnx_ir").convenience.replace_all_uses_with(value, new)
        if name in builder.stored_as:
            layout = packed[name].packed_layout
            kind, size = builder.stored_as[name], builder.bytes_of(name)
            found.append(StoredWeight(name, layout.bits, kind, size, layout.packed_bytes))
    for initializer in builder.initializers:
        graph.register_initializer(initializer)
    if builder.tape.nodes:
        graph.insert_before(graph[0], builder.tape.nodes)
    return found


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers in a graph.

    Args:
        codes: Value, int8 in the shape of the weight.
        scale: Value, float32 (O,), or () for one scale.
        numbers: What ``scale`` holds.
        axis: Of the scales; None for one scale.
        rank: Of the weight.
    """

    codes: Any
    scale: Any
    numbers: np.ndarray
    axis: int | None
    rank: int


class Builder:
    """Initializers, and nodes that depend on nothing else.

    Args:
        opset: Operator set.
        integer: Products of the graph are computed with integers.
    """

    def __init__(self, opset: int, integer: bool = False):
        self.opset, self.integer = opset, integer
        self.ir = library("onnx_ir")
        self.tape = self.ir.tape.Tape()
        self.initializers: list[Any] = []
        self._shared: dict[Any, Any] = {}
        self._codes: dict[str, tuple[Any, str]] = {}
        self._scales: dict[str, Any] = {}

    def stored(self, name: str, array: np.ndarray) -> Any:
        """An initializer."""
        value = self.ir.val(name, const_value=self.ir.tensor(array, name=name))
        self.initializers.append(value)
        return value

    def shared(self, array: np.ndarray) -> Any:
        """A small constant, stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.stored(f"constant{len(self._shared)}", array)
        return self._shared[key]

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        return self.tape.op(kind, inputs, attributes)

    def shaped(self, value: Any, shape: tuple[int, ...]) -> Any:
        return self.op("Reshape", value, self.shared(np.array(shape, dtype=np.int64)))

    def floating(self, name: str, tensor: Tensor) -> Any:
        """A tensor as it is; half-precision floats are made float32."""
        value = self.stored(name, to_array(tensor))
        half = tensor.dtype in (torch.float16, torch.bfloat16)
        return self.op("Cast", value, to=self.ir.DataType.FLOAT.value) if half else value

    def bytes_of(self, weight: str) -> int:
        """Bytes of what was stored for a weight."""
        own = (value.const_value for value in self.initializers if value.name.startswith(f"{weight}_"))
        return sum(-(-math.prod(tensor.shape) * tensor.dtype.bitwidth // 8) for tensor in own)

    @property
    def stored_as(self) -> dict[str, str]:
        """Weight -> type of its codes, of those that are stored."""
        return {name: kind for name, (_, kind) in self._codes.items()}

    def packed(self, name: str, layer: nn.Module) -> Any:
        """The weight of a packed layer."""
        layout, buffers = layer.packed_layout, layer.packed_buffers()
        shape, axis = placement(layout)
        along = tuple(-1 if i == axis else 1 for i in range(len(shape)))
        codes, stored_as = self.codes(name, layout, buffers["weight_codes"])
        scale = self.scale(name, layout, buffers["weight_scale"])
        shift = layout.level_offset
        if layout.codebook:
            levels = self.floating(f"{name}_codebook", buffers["weight_codebook"])
            values = self.op("Gather", levels, self.op("Cast", codes, to=self.ir.DataType.INT32.value))
            values = self.op("Mul", values, self.shaped(scale, along))
        elif stored_as == _PLANES or self.integer:  # there, runtimes leave DequantizeLinear to its products
            values = self.op("Cast", codes, to=self.ir.DataType.FLOAT.value)
            shift -= 2 ** (layout.bits - 1) if stored_as == _PLANES else 0
            values = self.op("Add", values, self.shared(np.float32(shift))) if shift else values
            values = self.op("Mul", values, self.shaped(scale, along))
        else:
            one = layout.rows == 1
            values = self.op("DequantizeLinear", codes, scale, **({} if one else {"axis": axis}))
            if shift:
                shifts = self.op("Mul", scale, self.shared(np.float32(shift)))
                values = self.op("Add", values, shifts if one else self.shaped(shifts, along))
        if layout.offset:
            offset = self.floating(f"{name}_offset", buffers["weight_offset"].flatten())
            values = self.op("Add", values, self.shaped(offset, along))
        return self._original(name, layout, buffers, values, shape)

    def integers(self, name: str, layer: nn.Module) -> IntegerWeight:
        """Weight of a packed layer as int8 and scales; see :func:`hf_ganzip.quantization.integers.integer_weight`."""
        layout, buffers = layer.packed_layout, layer.packed_buffers()
        codes, stored_as = self.codes(name, layout, buffers["weight_codes"])
        scale = self.scale(name, layout, buffers["weight_scale"])
        numbers = to_array(buffers["weight_scale"].float().flatten())
        lowest = 2 ** (layout.bits - 1) if stored_as == _PLANES else 0
        if lowest or layout.level_offset:
            codes = self.op("Cast", codes, to=self.ir.DataType.INT32.value)
            codes = self.op("Sub", codes, self.shared(np.int32(lowest))) if lowest else codes
        if layout.level_offset:  # (k + 1/2) s = (2 k + 1) s / 2
            codes = self.op("Add", self.op("Add", codes, codes), self.shared(np.int32(1)))
            scale, numbers = self.op("Mul", scale, self.shared(np.float32(0.5))), numbers / 2
        if stored_as != "int8":
            codes = self.op("Cast", codes, to=self.ir.DataType.INT8.value)
        return IntegerWeight(codes, scale, numbers, None if layout.rows == 1 else layout.axis, len(layout.shape))

    def scale(self, name: str, layout: PackedLayout, stored: Tensor) -> Any:
        """Scales (R,) float32 of a weight, or () for one."""
        if name not in self._scales:
            scale = self.floating(f"{name}_scale", stored.flatten())
            self._scales[name] = self.shaped(scale, ()) if layout.rows == 1 and not layout.codebook else scale
        return self._scales[name]

    def codes(self, name: str, layout: PackedLayout, packed: Tensor) -> tuple[Any, str]:
        """Codes as :func:`placement` says and their type: of ONNX, signed (indices into codebooks: unsigned), or else
        uint8 0 to 2**bits - 1 from packed bytes.
        """
        if name not in self._codes:
            self._codes[name] = self._new_codes(name, layout, packed, placement(layout)[0])
        return self._codes[name]

    def _new_codes(self, name: str, layout: PackedLayout, packed: Tensor, shape: tuple[int, ...]) -> tuple[Any, str]:
        in_order = (shape[1], shape[0], *shape[2:]) if layout.axis and shape == layout.shape else shape
        swapped = [1, 0, *range(2, len(shape))]
        if layout.bits in (4, 8) or layout.bits == 2 and self.opset >= LAST_OPSET:
            codes = unpack(packed.cpu(), layout.bits, layout.num_codes).view(in_order)
            codes = codes if in_order == shape else codes.permute(swapped).contiguous()
            array = _narrow(codes, layout.bits, signed=not layout.codebook)
            return self.stored(f"{name}_codes", array), str(array.dtype)
        whole, start, shift = None, 0, 0
        for width in PLANES[layout.bits]:
            size = -(-layout.num_codes * width // 8)
            plane = self.stored(f"{name}_codes{shift}", to_array(packed[start : start + size]))
            plane = self._plane(plane, width, layout.num_codes)
            if shift:
                plane = self.op("BitShift", plane, self.shared(np.uint8(shift)), direction="LEFT")
            whole = plane if whole is None else self.op("BitwiseOr", whole, plane)
            start, shift = start + size, shift + width
        whole = self.shaped(whole, in_order)
        return whole if in_order == shape else self.op("Transpose", whole, perm=swapped), _PLANES

    def _plane(self, packed: Any, width: int, count: int) -> Any:
        """Values (count,) of a bit plane; see :mod:`hf_ganzip.quantization.packing`."""
        shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
        moved = self.op("BitShift", packed, self.shared(shifts), direction="RIGHT")  # (8 / width, bytes)
        values = self.op("BitwiseAnd", moved, self.shared(np.uint8(2**width - 1)))
        values = self.shaped(values, (-1,))
        if count * width % 8:
            values = self.op("Slice", values, self.shared(np.array([0])), self.shared(np.array([count])))
        return values

    def _original(
        self, name: str, layout: PackedLayout, buffers: Mapping[str, Tensor], values: Any, shape: Any
    ) -> Any:
        """Values in the shape of the weight: split channels folded, rows rotated back, with the low rank, the axis of
        output channels where it was.
        """
        if shape == layout.shape and not (layout.rotation or layout.rank):
            return values
        outputs, inputs, *kernel = layout.moved_shape
        if layout.splits:
            values = self.shaped(values, (outputs, inputs + layout.splits, math.prod(kernel)))
            parts = self.shared(np.array([inputs, layout.splits], dtype=np.int64))
            kept, copies = self.tape.op_multi_out("Split", (values, parts), {"axis": 1}, num_outputs=2)
            sources = self.stored(f"{name}_sources", to_array(buffers["weight_sources"]))
            sources = self.op("Cast", sources, to=self.ir.DataType.INT64.value)
            depth, ends = self.shared(np.array([inputs])), self.shared(np.array([0, 1], dtype=np.float32))
            belongs = self.op("OneHot", sources, depth, ends, axis=0)  # (I, n)
            values = self.op("Add", kept, self.op("MatMul", belongs, copies))
        if layout.rotation:
            length = inputs * math.prod(kernel)
            signs, factors = unrotating(length, layout.rotation)
            matrix = self.op("Cast", self.shared(to_array(signs.to(torch.int8))), to=self.ir.DataType.FLOAT.value)
            values = self.op("MatMul", self.shaped(values, (-1, layout.rotation)), matrix)
            values = self.op("Mul", self.shaped(values, (outputs, length)), self.shared(to_array(factors)))
        if layout.rank:
            up, down = (self.floating(f"{name}_{part}", buffers[f"weight_{part}"]) for part in ("up", "down"))
            values = self.op("Add", self.shaped(values, (outputs, -1)), self.op("MatMul", up, down))
        values = self.shaped(values, layout.moved_shape)
        if layout.axis:
            values = self.op("Transpose", values, perm=[1, 0, *range(2, len(layout.shape))])
        return values


def placement(layout: PackedLayout) -> tuple[tuple[int, ...], int]:
    """Shape of the codes and the axis of their scales: that of the weight where scales belong to output channels and
    nothing is added, else rows (R, N).
    """
    if layout.splits or layout.rotation or layout.rank or layout.rows not in (1, layout.moved_shape[0]):
        return (layout.rows, layout.num_codes // layout.rows), 0
    return layout.shape, layout.axis


def _narrow(codes: Tensor, bits: int, *, signed: bool) -> np.ndarray:
    """Codes in ONNX's type of so many bits."""
    name = f"{'int' if signed else 'uint'}{bits}"
    values = codes.to(torch.int16) - (2 ** (bits - 1) if signed else 0)
    return values.numpy().astype(name if bits == 8 else getattr(library("ml_dtypes"), name))


def to_array(tensor: Tensor) -> np.ndarray:
    """A tensor as numpy has it; bfloat16 by ml_dtypes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(library("ml_dtypes").bfloat16)
    return tensor.numpy()
