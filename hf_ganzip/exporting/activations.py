# SPDX-License-Identifier: Apache-2.0
"""Layers with activations of 8 bits in a graph: inputs, weights and outputs as pairs of QuantizeLinear and
DequantizeLinear, which runtimes replace by integer kernels.

A kernel of ONNX Runtime rounds what a convolution gives to 8 bits, too, which our layers do not: the ranges of these
outputs are measured here, as those of inputs were when the model was quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..quantization.activations import Observed
from ..quantization.calibration import calibration_passes
from ..quantization.int8 import range_codes
from ..quantization.layout import PackedLayout
from .weights import Builder, IntegerWeight, to_array


_PRODUCTS = {torch.conv2d, torch.conv_transpose2d, torch._C._nn.linear}
# Not Gemm, of a row for each sample: ONNX Runtime merges its bias, and then has no integer kernel.
_KERNELS = ("Conv", "ConvTranspose", "MatMul")
Range = tuple[float, int]  # scale and zero point


@dataclass(frozen=True)
class LayerRanges:
    """Ranges of what a layer is given and gives."""

    given: Range
    output: Range


class _Watching(TorchFunctionMode):
    """Observes inputs and outputs of products with the weights of some layers."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self._layers = {model.get_submodule(name).weight.data_ptr(): name for name in names}
        self.found = {name: (Observed(), Observed()) for name in names}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and args[1].data_ptr() in self._layers:
            given, gave = self.found[self._layers[args[1].data_ptr()]]
            given.add(args[0])
            gave.add(output)
        return output


def measured_ranges(
    model: nn.Module, plain: nn.Module, inputs: Callable[..., Any] | None = None, *, kind: str = "mse"
) -> dict[str, LayerRanges]:
    """Ranges of all layers with activations of 8 bits, by name; inputs as they are stored, unless they are dynamic.

    Args:
        model: Packed.
        plain: The same with ordinary weights.
        inputs: As ``QuantizeConfig.activation_inputs``; None: the family's own.
        kind: Of ranges, as for ``QuantizeConfig.activation_range``.
    """
    layers = {name: each for name, each in model.named_modules() if getattr(each, "packed_integers", None) is not None}
    if not layers:
        return {}
    with torch.no_grad(), _Watching(plain, list(layers)) as watching:
        for forward in calibration_passes(plain, inputs):
            forward(plain)
    found = {}
    for name, layer in layers.items():
        given, gave = watching.found[name]
        static = layer.packed_layout.activations == "static"
        own = (layer.input_scale, layer.input_zero_point) if static else range_codes(*given.range(kind))
        ranges = ((float(scale), int(zero_point)) for scale, zero_point in (own, range_codes(*gave.range(kind))))
        found[name] = LayerRanges(*ranges)
    return found


def round_activations_(
    graph_model: Any,
    builder: Builder,
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, nn.Module],
    ranges: Mapping[str, LayerRanges],
) -> list[str]:
    """Round inputs, weights and outputs of the products with these layers' weights; returns the names of the layers.

    Args:
        graph_model: Traced; tensors of the model are still inputs.
        builder: Of initializers and of nodes that depend on nothing else.
        tensors: Tensors of the model by name.
        packed: Weight name -> packed layer.
        ranges: Layer name -> ranges.
    """
    graph, done = graph_model.graph, []
    values = {value.name: value for value in graph.inputs}
    for layer, own in ranges.items():
        name = f"{layer}.weight"
        products = list(_products(values[name])) if name in packed else []
        if not products:
            continue
        weight = builder.integers(name, packed[name])
        for node, swapped in products:
            nodes = _Nodes(builder)
            if node.op_type == "ConvTranspose":
                if not _is_doubling(node, packed[name].packed_layout):
                    continue
                _in_phases(nodes, node, weight, own)
            else:
                _round(nodes, node, weight, swapped, own, tensors)
            graph.insert_before(node, nodes.before.nodes)
            graph.insert_after(node, nodes.after.nodes)
            if node.op_type == "ConvTranspose":
                graph.remove(node, safe=True)
        done.append(layer)
    return done


def _products(weight: Any) -> Iterator[tuple[Any, bool]]:
    """Nodes that multiply by a weight, directly or transposed."""
    for node, index in list(weight.uses()):
        if node.op_type in _KERNELS and index == 1:
            yield node, False
        elif node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()[:2]) == (1, 0):
            for other, place in list(node.outputs[0].uses()):
                if other.op_type in _KERNELS and place == 1:
                    yield other, True


class _Nodes:
    """Nodes that are put around a product."""

    def __init__(self, builder: Builder):
        self.builder, self.before, self.after = builder, builder.ir.tape.Tape(), builder.ir.tape.Tape()

    def constants(self, given: Range) -> tuple[Any, Any]:
        scale, zero_point = given
        return self.builder.shared(np.float32(scale)), self.builder.shared(np.uint8(zero_point))

    def pair(self, tape: Any, value: Any, given: Range) -> Any:
        """``value`` rounded to a range."""
        constants = self.constants(given)
        codes = tape.op("QuantizeLinear", [value, *constants])
        return tape.op("DequantizeLinear", [codes, *constants])


def _round(
    nodes: _Nodes, node: Any, weight: IntegerWeight, swapped: bool, ranges: LayerRanges, tensors: Mapping[str, Tensor]
) -> None:
    """Pairs around a product."""
    builder, codes, axis, output = nodes.builder, weight.codes, weight.axis, node.outputs[0]
    if swapped:
        codes = builder.op("Transpose", codes, perm=[1, 0, *range(2, weight.rank)])
        axis = None if axis is None else 1 - axis
    given = nodes.pair(nodes.before, node.inputs[0], ranges.given)
    factor = builder.op("DequantizeLinear", codes, weight.scale, **({} if axis is None else {"axis": axis}))
    users = list(output.uses())
    node.replace_input_with(0, given)
    node.replace_input_with(1, factor)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _round_bias(nodes, node, weight, ranges, tensors)
    if node.op_type == "Conv":  # products of matrices are not rounded: their kernel gives floats
        rounded = nodes.pair(nodes.after, output, ranges.output)
        for user, index in users:
            user.replace_input_with(index, rounded)


def _is_doubling(node: Any, layout: PackedLayout) -> bool:
    """Whether a transposed convolution is the one of StyleGAN2: 3 x 3, stride 2, no padding."""
    attributes = {name: each.value for name, each in node.attributes.items()}
    plain = all(not any(attributes.get(name) or ()) for name in ("pads", "output_padding"))
    wide = attributes.get("group", 1) == 1 and list(attributes.get("dilations", [1, 1])) == [1, 1]
    return layout.shape[2:] == (3, 3) and list(attributes.get("strides", ())) == [2, 2] and plain and wide


def _in_phases(nodes: _Nodes, node: Any, weight: IntegerWeight, ranges: LayerRanges) -> None:
    """A transposed convolution (I, H, W) to (O, 2H + 1, 2W + 1) as one ordinary convolution for each parity of rows
    and columns; ONNX Runtime has no integer kernel for the whole.
    """
    builder, after = nodes.builder, nodes.after
    outer = builder.op("Transpose", weight.codes, perm=[1, 0, 2, 3]) if weight.axis == 1 else weight.codes
    given = nodes.pair(nodes.before, node.inputs[0], ranges.given)
    constants, parts = nodes.constants(ranges.output), []
    where = {} if weight.axis is None else {"axis": 0}
    taps = {0: (2, -4, -2), 1: (1, 2, 1)}  # start, end, step: even outputs see the last and the first tap
    channels, height, width = node.outputs[0].shape[1:]
    for rows in (0, 1):
        row = []
        for columns in (0, 1):
            start, end, step = (builder.shared(np.array(each)) for each in zip(taps[rows], taps[columns]))
            part = builder.op("Slice", outer, start, end, builder.shared(np.array([2, 3])), step)
            part = builder.op("DequantizeLinear", part, weight.scale, **where)
            pads = [1 - rows, 1 - columns, 1, 1]  # all parts (H + 1, W + 1)
            product = after.op("Conv", [given, part], {"pads": pads})
            rounded = after.op("QuantizeLinear", [product, *constants])
            row.append(after.op("Transpose", [rounded], {"perm": [0, 2, 3, 1]}))
        # With channels last, as integer kernels compute, neighbours are woven by copying whole pixels and rows:
        # DepthToSpace moves single bytes.
        woven = after.op("Concat", row, {"axis": 3})
        row_shape = builder.shared(np.array([0, height // 2 + 1, 1, (width + 1) * channels]))
        parts.append(after.op("Reshape", [woven, row_shape]))
    merged = after.op("Concat", parts, {"axis": 2})
    merged = after.op("Reshape", [merged, builder.shared(np.array([0, height + 1, width + 1, channels]))])
    ends = [builder.shared(np.array(each)) for each in ([0, 0], [-1, -1], [1, 2])]
    merged = after.op("Slice", [merged, *ends])
    merged = after.op("Transpose", [merged], {"perm": [0, 3, 1, 2]})
    merged = after.op("DequantizeLinear", [merged, *constants])
    for user, index in list(node.outputs[0].uses()):
        user.replace_input_with(index, merged)


def _round_bias(
    nodes: _Nodes, node: Any, weight: IntegerWeight, ranges: LayerRanges, tensors: Mapping[str, Tensor]
) -> None:
    """A stored bias as int32, in units of the product of both scales."""
    builder, name = nodes.builder, node.inputs[2].name
    if name not in tensors:
        return
    unit = builder.op("Mul", weight.scale, builder.shared(np.float32(ranges.given[0])))
    scale = weight.numbers * np.float32(ranges.given[0])
    codes = np.rint(to_array(tensors[name].float()) / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
    stored = builder.stored(f"{name}_codes", codes)
    where = {} if weight.axis is None else {"axis": 0}
    node.replace_input_with(2, builder.op("DequantizeLinear", stored, unit, **where))
