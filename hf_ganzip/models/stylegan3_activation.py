# SPDX-License-Identifier: Apache-2.0
"""The filtered activation of StyleGAN3 (Karras et al., NeurIPS 2021, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


_MATRIX_LIMIT = 160  # pixels of the input: up to here one dense matrix per axis is faster than strided filters on CPUs


def upsample_matrix(kernel: Tensor | None, size: int, factor: int, before: int, after: int) -> Tensor:
    """Matrix (out, size): insert factor - 1 zeros after each sample, pad or crop, filter with gain ``factor``."""
    taps = torch.ones(1) if kernel is None else kernel.detach().float().cpu()
    out = size * factor + before + after - len(taps) + 1
    position = torch.arange(out)[:, None] + torch.arange(len(taps))[None] - before  # in the zero-inserted signal
    valid = (position % factor == 0) & (position >= 0) & (position < size * factor)
    matrix = torch.zeros(out, size)
    # Where not valid, zeros are added: torch.compile cannot trace boolean indices.
    columns = (position // factor).clamp(0, size - 1)
    return matrix.scatter_add_(1, columns, taps.flip(0) * factor * valid)


def downsample_matrix(kernel: Tensor | None, size: int, factor: int) -> Tensor:
    """Matrix (out, size) of: filter without padding, keep every ``factor``-th sample."""
    taps = torch.ones(1) if kernel is None else kernel.detach().float().cpu()
    out = (size - len(taps)) // factor + 1
    matrix = torch.zeros(out, size)
    columns = torch.arange(out)[:, None] * factor + torch.arange(len(taps))[None]
    return matrix.scatter_(1, columns, taps.flip(0).expand(out, -1).contiguous())


class FilteredActivation:
    """Upsample, leaky ReLU, downsample, for inputs of one size.

    Small sizes use one dense matrix per axis, which contains padding and cropping; larger ones, and radial filters, use
    strided depthwise convolutions. Matrices are made once per device and dtype.

    Args:
        size: Side of the input.
        up: Upsampling factor.
        down: Downsampling factor.
        padding: (before, after) in pixels of the upsampled signal; below the length of the filter, may be negative.
    """

    def __init__(self, size: int, up: int, down: int, padding: tuple[int, int]):
        self.size, self.up, self.down, self.padding = size, up, down, padding
        self._matrices: dict[tuple[Any, ...], Tensor] = {}

    def __call__(
        self,
        x: Tensor,
        bias: Tensor,
        up_filter: Tensor | None,
        down_filter: Tensor | None,
        *,
        gain: float,
        slope: float,
        clamp: float | None,
    ) -> Tensor:
        """x (B, C, size, size) and bias (C,) to (B, C, out, out)."""
        x = x + bias.to(x.dtype)[:, None, None]
        x = self._upsample(x, up_filter)
        inplace = not torch.is_grad_enabled()
        if slope != 1:
            x = F.leaky_relu(x, slope, inplace=inplace)
        if gain != 1:
            x = x.mul_(gain) if inplace else x * gain
        if clamp is not None:
            x = x.clamp_(-clamp, clamp) if inplace else x.clamp(-clamp, clamp)
        return self._downsample(x, down_filter)

    def _upsample(self, x: Tensor, kernel: Tensor | None) -> Tensor:
        before, after = self.padding
        if self.size <= _MATRIX_LIMIT:
            matrix = self._matrix("up", kernel, x, lambda: upsample_matrix(kernel, self.size, self.up, before, after))
            return matrix @ x @ matrix.T
        if kernel is None:  # up is 1
            return F.pad(x, (before, after, before, after))
        channels, taps = x.shape[1], len(kernel)
        weight = (kernel * self.up).to(x.dtype).expand(channels, 1, -1)
        x = F.conv_transpose2d(x, weight[..., None], stride=(self.up, 1), groups=channels)
        x = F.conv_transpose2d(x, weight[..., None, :], stride=(1, self.up), groups=channels)
        # The transposed convolution yields (size - 1) * up + taps samples, from position 1 - taps of the signal.
        start = taps - 1 - before
        out = self.size * self.up + before + after - taps + 1
        return x[:, :, start : start + out, start : start + out]

    def _downsample(self, x: Tensor, kernel: Tensor | None) -> Tensor:
        if kernel is None:  # down is 1
            return x
        channels = x.shape[1]
        if kernel.ndim == 2:
            weight = kernel.flip(0, 1).to(x.dtype).expand(channels, 1, -1, -1)
            return F.conv2d(x, weight, stride=self.down, groups=channels)
        if self.size <= _MATRIX_LIMIT:
            size = x.shape[2]
            matrix = self._matrix("down", kernel, x, lambda: downsample_matrix(kernel, size, self.down))
            return matrix @ x @ matrix.T
        weight = kernel.flip(0).to(x.dtype).expand(channels, 1, -1)
        x = F.conv2d(x, weight[..., None], stride=(self.down, 1), groups=channels)
        return F.conv2d(x, weight[..., None, :], stride=(1, self.down), groups=channels)

    def _matrix(self, name: str, kernel: Tensor | None, x: Tensor, make: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return make().to(x.device, x.dtype)
        version = None if kernel is None else (kernel.data_ptr(), kernel._version)
        key = (name, version, x.device, x.dtype)
        if key not in self._matrices:
            self._matrices = {k: v for k, v in self._matrices.items() if k[0] != name}
            self._matrices[key] = make().to(x.device, x.dtype)
        return self._matrices[key]
