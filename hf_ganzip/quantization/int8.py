# SPDX-License-Identifier: Apache-2.0
"""Products of 8-bit integers: the only file that knows the operators which compute them.

Inputs are uint8, ``x = (q - zero_point) * scale``, weights int8 with one scale per output channel, sums int32. On CPUs
oneDNN's quantized operators compute them, on CUDA ``torch._int_mm``, elsewhere the same integers are computed in
floating point. Inputs come with their padding, so that the zero point is a term of the bias: oneDNN is faster without
one. ``tests/quantization/test_int8_contract.py`` fails when a new torch moves what is used here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


LEVELS = 255  # of inputs, above the lowest
_EXACT_IN_FLOAT32 = 2**24
_CHUNK = 2**17  # inputs that are rounded at once on CPUs: they stay in a core's cache
_ALIGNED, _FEWEST_ROWS = 8, 17  # what _int_mm asks of matrices


@dataclass(frozen=True)
class Taps:
    """How a convolution of padded inputs goes over them: strides, dilations, groups; None for a linear layer."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """``clamp(round(x / scale) + zero_point, 0, 255)`` as uint8, ties to even, by float32 reciprocals of ``scale``.

    Args:
        x: (..., I), or images (B, I, H, W) with ``padding`` = (rows, columns), which become (B, I, H + 2 rows, W + 2
            columns) in channels_last.
        scale: (1,) float32.
        zero_point: (1,) int32, 0 to 255.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        if padding is not None:
            x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
            x = x.contiguous(memory_format=torch.channels_last)
        codes = (x.float() * scale.reciprocal()).round() + zero_point
        return codes.clamp(0, LEVELS).to(torch.uint8)
    inverse, zero = scale.reciprocal().item(), int(zero_point)
    if padding is None:
        codes = torch.empty(x.shape, dtype=torch.uint8)
        _round_into(codes.view(1, -1), x.reshape(1, -1), inverse, zero)
        return codes
    rows, columns = padding
    images = x.permute(0, 2, 3, 1)
    if not images.is_contiguous():
        images = images.contiguous()
    batch, height, width, channels = images.shape
    codes = torch.empty((batch, height + 2 * rows, width + 2 * columns, channels), dtype=torch.uint8)
    if not any(padding):
        _round_into(codes.view(1, -1), images.reshape(1, -1), inverse, zero)
        return codes.permute(0, 3, 1, 2)
    for edge in (codes[:, :rows], codes[:, rows + height :], codes[:, :, :columns], codes[:, :, columns + width :]):
        edge.fill_(zero)
    for image, target in zip(images, codes[:, rows : rows + height, columns : columns + width]):
        _round_into(target, image, inverse, zero)
    return codes.permute(0, 3, 1, 2)


def _round_into(codes: Tensor, x: Tensor, inverse: float, zero: int) -> None:
    """Some rows of ``x`` (N, ...) at a time; of a single row, some of its numbers.

    By way of 16 bits and modulo 256: twice as fast as from float32 to bytes.
    """
    if len(x) == 1:
        codes, x = codes[0], x[0]
    step = max(1, _CHUNK * len(x) // max(1, x.numel()))
    for target, part in zip(codes.split(step), x.split(step)):
        levels = part.float().mul(inverse) if part.dtype != torch.float32 else part.mul(inverse)
        target.copy_(levels.round_().clamp_(-zero, LEVELS - zero).to(torch.int16)).add_(zero)


def dynamic_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (1,) and zero point (1,) of the range of ``x``, which is made to hold zero."""
    flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x  # contiguous, mostly: many times as fast
    low, high = torch.aminmax(flat)
    return range_codes(low, high)


def range_codes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (1,) float32 and zero point (1,) int32 that map ``low`` .. ``high``, which is made to hold zero, to 0 ..
    255; scale 1 for the range 0 .. 0.
    """
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round().clamp(0, LEVELS).to(torch.int32)
    return scale.reshape(1), zero_point.reshape(1)


class Product:
    """Product of uint8 inputs with int8 weights (O, I / groups, ...), prepared once: subclasses keep one copy.

    Args:
        weight: int8.
        scale: (O,) float32.
        taps: Of a convolution of images; None: of a linear layer.
    """

    def __init__(self, weight: Tensor, scale: Tensor, taps: Taps | None):
        self.scale, self.taps = scale, taps
        # (O,): what one step of all inputs adds.
        self.sums = weight.flatten(1).sum(dim=1, dtype=torch.int32).float() * scale

    def __call__(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Sums times both scales plus ``bias`` (O,), in ``dtype``."""
        raise NotImplementedError

    def shifted(self, scale: Tensor, zero_point: Tensor, bias: Tensor | None, moved: int = 0) -> Tensor:
        """The bias (O,) float32 that makes up for the zero point of the inputs, less ``moved``."""
        shift = self.sums * (scale * (moved - zero_point))
        return shift if bias is None else shift + bias.float()


class OneDNNProduct(Product):
    """By oneDNN, on CPUs. The packed weight fits images of all sizes."""

    def __init__(self, weight: Tensor, scale: Tensor, taps: Taps | None):
        super().__init__(weight, scale, taps)
        operators = torch.ops.onednn
        if taps is None:
            self.packed = operators.qlinear_prepack(weight, None)
        else:
            self.packed = operators.qconv_prepack(
                weight, scale, 1.0, 0, list(taps.stride), [0, 0], list(taps.dilation), taps.groups, None
            )
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)

    def __call__(self, codes, scale, zero_point, bias, dtype):
        operators, taps = torch.ops.onednn, self.taps
        given = (codes, scale.item(), 0, self.packed, self.scale, self.zero_points)
        bias = self.shifted(scale, zero_point, bias)
        wanted = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        if taps is None:
            found = operators.qlinear_pointwise(*given, bias, 1.0, 0, wanted, "none", [], "")
        else:
            where = (list(taps.stride), [0, 0], list(taps.dilation), taps.groups)
            found = operators.qconv2d_pointwise(*given, bias, *where, 1.0, 0, wanted, "none", [], "")
        return found.to(dtype)


class MatrixProduct(Product):
    """By ``torch._int_mm``, for CUDA: a convolution is the product with a matrix of patches."""

    def __init__(self, weight: Tensor, scale: Tensor, taps: Taps | None):
        super().__init__(weight, scale, taps)
        self.kernel = tuple(weight.shape[2:])
        self.outputs = len(weight)
        matrix = weight.flatten(1) if taps is None else weight.permute(0, 2, 3, 1).flatten(1)
        self.matrix = F.pad(matrix, (0, -matrix.shape[1] % _ALIGNED, 0, -len(matrix) % _ALIGNED)).contiguous()

    def __call__(self, codes, scale, zero_point, bias, dtype):
        signed = (codes ^ 128).view(torch.int8)  # codes - 128
        rows = signed if self.taps is None else self._patches(signed)
        shape, rows = rows.shape[:-1], rows.flatten(0, -2)
        count = len(rows)
        missing = (0, self.matrix.shape[1] - rows.shape[1], 0, max(0, _FEWEST_ROWS - count))
        sums = torch._int_mm(F.pad(rows, missing) if any(missing) else rows.contiguous(), self.matrix.t())
        found = sums[:count, : self.outputs].float() * (self.scale * scale)
        found = (found + self.shifted(scale, zero_point, bias, moved=128)).to(dtype).view(*shape, -1)
        return found if self.taps is None else found.permute(0, 3, 1, 2)

    def _patches(self, codes: Tensor) -> Tensor:
        """(B, I, H, W) to (B, H', W', k * k * I), the channels of a pixel together."""
        taps = self.taps
        spans = [(size - 1) * step + 1 for size, step in zip(self.kernel, taps.dilation)]
        windows = codes.permute(0, 2, 3, 1).unfold(1, spans[0], taps.stride[0]).unfold(2, spans[1], taps.stride[1])
        windows = windows[..., :: taps.dilation[0], :: taps.dilation[1]]  # (B, H', W', I, k, k)
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


class ReferenceProduct(Product):
    """The same integers in floating point: float32 where all sums are exact there, else float64."""

    def __init__(self, weight: Tensor, scale: Tensor, taps: Taps | None):
        super().__init__(weight, scale, taps)
        largest = LEVELS * int(weight.flatten(1).int().abs().sum(dim=1).max())
        wide = largest >= _EXACT_IN_FLOAT32 and weight.device.type != "mps"
        self.weight, self.dtype = weight, torch.float64 if wide else torch.float32

    def __call__(self, codes, scale, zero_point, bias, dtype):
        values, weight, taps = codes.to(self.dtype), self.weight.to(self.dtype), self.taps
        if taps is None:
            sums = F.linear(values, weight)
        else:
            sums = F.conv2d(values, weight, None, taps.stride, 0, taps.dilation, taps.groups)
        each = (-1,) if taps is None else (-1, 1, 1)
        found = sums.float() * (self.scale * scale).view(each) + self.shifted(scale, zero_point, bias).view(each)
        return found.to(dtype)


@functools.cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's operators are there and sum exactly: without VNNI, pairs of products saturate at 16 bits."""
    try:
        weight, scale = torch.full((16, 64, 1, 1), 127, dtype=torch.int8), torch.ones(16)
        codes = torch.full((2, 64, 4, 4), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        unit, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
        found = [
            OneDNNProduct(weight, scale, Taps())(codes, unit, zero, None, torch.float32),
            OneDNNProduct(weight[:, :, 0, 0], scale, None)(codes[:, :, 0, 0], unit, zero, None, torch.float32),
        ]
    except (AttributeError, NotImplementedError, RuntimeError):  # torch without oneDNN, or with other operators
        return False
    return all(bool((sums == 255 * 127 * 64).all()) for sums in found)


def product_class(device: torch.device, taps: Taps | None) -> type[Product]:
    """The fastest exact way to compute on ``device``."""
    if device.type == "cpu" and onednn_is_exact():
        return OneDNNProduct
    if device.type == "cuda" and (taps is None or taps.groups == 1):
        return MatrixProduct
    return ReferenceProduct


def kernels(device: Any = "cpu") -> str:
    """What int8 layers are computed by on ``device``: "oneDNN", "_int_mm" or "reference" (slower than floating point).

    Example:
        >>> kernels("cpu") in ("oneDNN", "reference")
        True
    """
    names = {OneDNNProduct: "oneDNN", MatrixProduct: "_int_mm", ReferenceProduct: "reference"}
    return names[product_class(torch.device(device), None)]
