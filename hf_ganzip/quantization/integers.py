# SPDX-License-Identifier: Apache-2.0
"""Packed layers that compute with integers as stored (``compute="int8"``): which can, how, with which gradients."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .buffers import unpack_codes
from .int8 import LEVELS, Product, Taps, dynamic_range, product_class, quantize


_LAYERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Geometry:
    """What a layer does with its inputs.

    Args:
        kind: "linear", "conv2d" or "conv_transpose2d".
        stride, padding, output_padding, dilation: (rows, columns).
        groups: Of channels.
        padding_mode: Of ``nn.Conv2d``; others than "zeros" pad before inputs are rounded.
        edges: (left, right, top, bottom) for these and for ``padding="same"``, else None.
    """

    kind: str
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "constant"
    edges: tuple[int, ...] | None = None


def computes_plainly(cls: type[nn.Module]) -> bool:
    """Whether layers of a class do nothing but a linear map or a two-dimensional convolution."""
    plain = next((each for each in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if issubclass(cls, each)), None)
    return plain is not None and (cls.forward is plain.forward or getattr(cls, "ganzip_plain_product", False))


def geometry_of(module: nn.Module) -> Geometry | None:
    """How ``module`` computes, if it can with integers: linear and two-dimensional convolution layers, and classes of
    ours with an ``integer_geometry``; else None.
    """
    own = getattr(module, "integer_geometry", None)
    if own is not None:
        return Geometry(**own)
    cls = type(module)
    if not computes_plainly(cls.__mro__[2] if hasattr(cls, "dequantized_weight") else cls):
        return None
    if isinstance(module, nn.Linear):
        return Geometry("linear")
    common = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    if isinstance(module, nn.ConvTranspose2d):
        fits = module.padding_mode == "zeros" and module.dilation == (1, 1)
        padding = {"padding": module.padding, "output_padding": module.output_padding}
        return Geometry("conv_transpose2d", **common, **padding) if fits else None
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return Geometry("conv2d", **common, padding=module.padding)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    edges = tuple(module._reversed_padding_repeated_twice)
    return Geometry("conv2d", **common, padding_mode=mode, edges=edges)


def integer_weight(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight of a packed layer as int8 (its shape, but output channels first) times a scale per output channel
    (O,) float32: exactly what it unpacks to.

    Raises:
        ValueError: Levels that are not evenly spaced, offsets, scales of groups, split channels.
    """
    layout = layer.packed_layout
    why = layout.not_integers()
    if why:
        raise ValueError(f"integer_weight: the weight has {why}; integers times one scale per channel have not.")
    codes = unpack_codes(layer.packed_buffers(), layout)
    if layout.level_offset:  # (k + 1/2) s = (2 k + 1) s / 2
        codes = codes.mul_(2).add_(1)
    return codes.view(layout.moved_shape), integer_scale(layer)


def integer_scale(layer: nn.Module) -> Tensor:
    """Scales (O,) float32 of :func:`integer_weight`."""
    scale = layer.weight_scale.float() / (2 if layer.packed_layout.level_offset else 1)
    return scale.view(-1).expand(layer.packed_layout.moved_shape[0]).contiguous()


class Integers:
    """The products of one layer, prepared on first use; keeps one copy of its weight in int8."""

    def __init__(self, layer: nn.Module):
        self.layer = weakref.proxy(layer)
        self.shape = layer.packed_layout.moved_shape
        self.kernel = self.shape[2:]
        self.geometry: Geometry = geometry_of(layer)
        self.padding = self._padding()
        self.number = next(_NUMBERS)
        self._products: list[tuple[tuple[int, ...], Product]] = []
        self._energy: Tensor | None = None
        self._device: torch.device | None = None
        _LAYERS[self.number] = self

    def forget(self) -> None:
        """Drop what was prepared, of weights that were before."""
        self._products, self._energy, self._device = [], None, None

    def energy(self) -> Tensor:
        """Sums of squares (O, I) float32 of the weight over its taps, for demodulation; kept in half precision."""
        if self._energy is None or self._energy.device != self.layer.weight_codes.device:
            squares = integer_weight(self.layer)[0].flatten(2).int().square().sum(dim=2)
            self._energy = (squares / 4).half()  # a quarter of at most 9 * 127**2
        return self._energy.float() * (4 * integer_scale(self.layer).square())[:, None]

    def _padding(self) -> tuple[int, int] | None:
        """(rows, columns) that inputs are padded by, all that any product needs; None for a linear layer."""
        geometry = self.geometry
        if geometry.kind == "linear":
            return None
        if geometry.kind == "conv2d":
            return (0, 0) if geometry.edges else geometry.padding
        return tuple((size - 1) // step for size, step in zip(self.kernel, geometry.stride))

    def product(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Output of the layer for padded ``codes``."""
        if not self._products or self._device != codes.device:
            self._products, self._device = list(self._prepared()), codes.device
        if self.geometry.kind != "conv_transpose2d":
            return self._products[0][1](codes, scale, zero_point, bias, dtype)
        return self._interleaved(codes, scale, zero_point, bias, dtype)

    def _prepared(self) -> Iterator[tuple[tuple[int, ...], Product]]:
        weight, scale = integer_weight(self.layer)
        geometry = self.geometry
        taps = None
        if geometry.kind != "linear":
            transposed = geometry.kind == "conv_transpose2d"
            taps = Taps((1, 1) if transposed else geometry.stride, geometry.dilation, geometry.groups)
        cls = product_class(weight.device, taps)
        if geometry.kind != "conv_transpose2d":
            yield (0, 0), cls(weight, scale, taps)
            return
        if geometry.groups > 1:  # (O / groups, I, k, k) to (O, I / groups, k, k)
            weight, scale = torch.cat(weight.chunk(geometry.groups, dim=1)), scale.repeat(geometry.groups)
        (up, across) = geometry.stride
        for first in itertools.product(range(up), range(across)):
            phase = weight[:, :, first[0] :: up, first[1] :: across]
            if phase.numel():
                yield first, cls(phase.flip(2, 3).contiguous(), scale, taps)

    def output_shape(self, padded: torch.Size) -> tuple[int, ...]:
        """Shape of the output for padded codes of this shape."""
        geometry, outputs = self.geometry, self.shape[0]
        if geometry.kind == "linear":
            return (*padded[:-1], outputs)
        kernel = self.kernel
        if geometry.kind == "conv2d":
            sizes = [
                (size - (k - 1) * dilation - 1) // stride + 1
                for size, k, dilation, stride in zip(padded[2:], kernel, geometry.dilation, geometry.stride)
            ]
        else:
            outputs *= geometry.groups
            inner = [size - 2 * pad for size, pad in zip(padded[2:], self.padding)]
            sizes = [
                (size - 1) * stride - 2 * padding + k + more
                for size, stride, padding, k, more in zip(
                    inner, geometry.stride, geometry.padding, kernel, geometry.output_padding
                )
            ]
        return (padded[0], outputs, *sizes)

    def _interleaved(self, codes, scale, zero_point, bias, dtype) -> Tensor:
        """A transposed convolution as one ordinary convolution for every phase of the stride: output s m + r - p is
        the sum of x[m - t] w[r + s t].
        """
        geometry, pads = self.geometry, self.padding
        shape = self.output_shape(codes.shape)
        found = torch.empty(shape, dtype=dtype, device=codes.device, memory_format=torch.channels_last)
        unreached = len(self._products) < math.prod(geometry.stride) or any(geometry.output_padding)
        if unreached:  # some outputs, by any input
            found.zero_() if bias is None else found.copy_(bias.to(dtype)[:, None, None].expand(shape))
        for first, product in self._products:
            wanted, given = [], []
            for axis in (0, 1):
                stride, padding, pad = geometry.stride[axis], geometry.padding[axis], pads[axis]
                taps = -(-(self.kernel[axis] - first[axis]) // stride)
                size = codes.shape[2 + axis] - 2 * pad
                lowest = -(-max(0, padding - first[axis]) // stride)  # m of the first output that is wanted
                start = lowest * stride + first[axis] - padding
                count = min(size + taps - 1 - lowest, -(-(shape[2 + axis] - start) // stride))
                begin = pad - (taps - 1) + lowest
                given.append(slice(begin, begin + count + taps - 1))
                wanted.append(slice(start, start + (count - 1) * stride + 1, stride) if count > 0 else slice(0, 0))
            if all(part.stop > part.start for part in wanted):
                part = codes[:, :, given[0], given[1]].contiguous(memory_format=torch.channels_last)
                found[:, :, wanted[0], wanted[1]] = product(part, scale, zero_point, bias, dtype)
        return found

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the inputs (before padding by ``padding``) as if nothing was rounded."""
        geometry, weight = self.geometry, self.layer.dequantized_weight().to(grad.dtype)
        if geometry.kind == "linear":
            return grad @ weight
        if geometry.kind == "conv2d":
            padding = (0, 0) if geometry.edges else geometry.padding
            how = (geometry.stride, padding, geometry.dilation, geometry.groups)
            return torch.nn.grad.conv2d_input(shape, weight, grad, *how)
        weight = weight if self.layer.packed_layout.axis else weight.transpose(0, 1)
        return F.conv2d(grad, weight, None, geometry.stride, geometry.padding, 1, geometry.groups)


def integer_forward(layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
    """Output of ``layer`` for ``x``, rounded to 8 bits; its gradients are as if ``x`` was not, within the range."""
    integers = layer.packed_integers
    geometry = integers.geometry
    if geometry.edges and any(geometry.edges):
        x = F.pad(x, geometry.edges, geometry.padding_mode)
    dynamic = layer.packed_layout.activations == "dynamic"
    scale, zero_point = dynamic_range(x.detach()) if dynamic else (layer.input_scale, layer.input_zero_point)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return differentiable_product(x, scale, zero_point, bias, integers.number)
    codes = quantize(x, scale, zero_point, integers.padding)
    if torch.compiler.is_compiling():
        return integer_product(codes, scale, zero_point, bias, integers.number, x.dtype)
    return integers.product(codes, scale, zero_point, bias, x.dtype)


def input_ends(layer: nn.Module) -> tuple[float, float] | None:
    """Least and greatest input of a packed layer that is not clipped; None without a stored range."""
    if layer.packed_layout.activations != "static":
        return None
    scale, zero = float(layer.input_scale), int(layer.input_zero_point)
    return -zero * scale, (LEVELS - zero) * scale


# Operators of their own, so that compiled graphs hold no packed weights: layers are found by number.


@torch.library.custom_op("hf_ganzip::integer_product", mutates_args=())
def integer_product(
    codes: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None, layer: int, dtype: torch.dtype
) -> Tensor:
    """Product of padded codes with the weight of layer number ``layer``."""
    return _dense(_LAYERS[layer].product(codes, scale, zero_point, bias, dtype))


@torch.library.custom_op("hf_ganzip::integer_energy", mutates_args=())
def integer_energy(scale: Tensor, layer: int) -> Tensor:
    """:meth:`Integers.energy` of layer number ``layer``, whose ``weight_scale`` is given."""
    return _LAYERS[layer].energy()


@integer_energy.register_fake
def _(scale, layer):
    return torch.empty(_LAYERS[layer].shape[:2], device=scale.device)


@integer_product.register_fake
def _(codes, scale, zero_point, bias, layer, dtype):
    return _empty_output(codes, layer, codes.shape, dtype)


@torch.library.custom_op("hf_ganzip::differentiable_product", mutates_args=())
def differentiable_product(x: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None, layer: int) -> Tensor:
    """:func:`quantize` and :func:`integer_product`."""
    integers = _LAYERS[layer]
    codes = quantize(x, scale, zero_point, integers.padding)
    return _dense(integers.product(codes, scale, zero_point, bias, x.dtype))


@differentiable_product.register_fake
def _(x, scale, zero_point, bias, layer):
    padding = _LAYERS[layer].padding
    shape = x.shape if padding is None else (*x.shape[:2], *(n + 2 * p for n, p in zip(x.shape[2:], padding)))
    return _empty_output(x, layer, shape, x.dtype)


@torch.library.custom_op("hf_ganzip::input_gradient", mutates_args=())
def input_gradient(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, layer: int) -> Tensor:
    """Gradient of ``x``: zero where it was clipped, else as if nothing was rounded."""
    steps = (x.float() * scale.reciprocal()).round() + zero_point
    found = _LAYERS[layer].input_gradient(grad, x.shape)
    return (found * ((steps >= 0) & (steps <= LEVELS))).to(x.dtype).contiguous()


@input_gradient.register_fake
def _(grad, x, scale, zero_point, layer):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep_inputs(ctx, inputs, output):
    x, scale, zero_point, bias, layer = inputs
    ctx.save_for_backward(x, scale, zero_point)
    ctx.layer, ctx.has_bias = layer, bias is not None


def _gradients(ctx, grad):
    x, scale, zero_point = ctx.saved_tensors
    over = [axis for axis in range(grad.ndim) if axis != (1 if x.ndim == 4 else grad.ndim - 1)]
    for_bias = grad.sum(dim=over) if ctx.has_bias else None
    return input_gradient(grad, x, scale, zero_point, ctx.layer), None, None, for_bias, None


differentiable_product.register_autograd(_gradients, setup_context=_keep_inputs)


def _empty_output(like: Tensor, layer: int, padded: Any, dtype: torch.dtype) -> Tensor:
    shape = _LAYERS[layer].output_shape(padded)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def _dense(found: Tensor) -> Tensor:
    """``found`` with the strides that :func:`_empty_output` says, also of sizes of 1."""
    layout = torch.channels_last if found.ndim == 4 else torch.contiguous_format
    wanted = torch.empty(found.shape, dtype=found.dtype, device=found.device, memory_format=layout)
    return found if found.stride() == wanted.stride() else wanted.copy_(found)
