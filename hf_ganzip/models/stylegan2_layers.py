# SPDX-License-Identifier: Apache-2.0
"""Convolutions of StyleGAN2 and its discriminator, in plain torch ops.

Modulation scales the activations instead of the weights, so one ordinary convolution serves the whole batch: the result
equals per-sample modulated weights with grouped convolutions and is several times faster on CPUs. Activations travel in
the ``channels_last`` memory format for the same reason.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan_base import ACTIVATION_GAINS, FullyConnectedLayer, activate, at_least_float32, noise_for


def blur_kernel(taps: tuple[int, ...]) -> Tensor:
    """Separable low-pass kernel (K, K) from 1-D ``taps``, normalized to sum 1."""
    kernel = torch.tensor(taps, dtype=torch.float32)
    kernel = kernel[:, None] * kernel[None, :]
    return kernel / kernel.sum()


def blur(x: Tensor, kernel: Tensor, padding: tuple[int, int], gain: float = 1.0, stride: int = 1) -> Tensor:
    """Depthwise FIR filter of ``x`` (B, C, H, W); ``padding`` = (before, after) on both axes."""
    before, after = padding
    channels = x.shape[1]
    weight = (kernel.flip(0, 1) * gain).to(x.dtype).expand(channels, 1, -1, -1)
    if before != after:
        x, before = F.pad(x, [before, after, before, after]), 0
    return F.conv2d(x, weight, padding=before, stride=stride, groups=channels)


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the size of ``x`` (B, C, H, W) by zero insertion and FIR filtering."""
    size, channels = kernel.shape[0], x.shape[1]
    weight = (kernel * 4).to(x.dtype).expand(channels, 1, -1, -1)
    y = F.conv_transpose2d(x, weight, stride=2, groups=channels)  # (B, C, 2H + K - 2, 2W + K - 2)
    first = size - 1 - (size + 1) // 2  # centres the filter on the pixels of x
    return y[:, :, first : first + 2 * x.shape[2], first : first + 2 * x.shape[3]]


def downsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Halve the size of ``x`` (B, C, H, W) by FIR filtering and striding."""
    size = kernel.shape[0]
    return blur(x, kernel, ((size - 1) // 2, (size - 2) // 2), stride=2)


class EqualizedConv2d(nn.Module):
    """Convolution with equalized learning rate, optional FIR up/downsampling, bias, activation and clamp.

    Input (B, in_channels, H, W); output (B, out_channels, H', W') with H' = 2H, H or H/2.
    """

    ganzip_quantizable = True
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        resample: str | None = None,  # None, "up", "down"
        resample_filter: tuple[int, ...] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.activation, self.resample, self.conv_clamp = activation, resample, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", blur_kernel(resample_filter))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = gain * ACTIVATION_GAINS[self.activation]
        weight = self.weight.to(x.dtype) * (self.weight_gain * gain)
        bias = None if self.bias is None else self.bias.to(x.dtype) * gain
        x = resampled_conv2d(x, weight, bias, self.resample, self.resample_filter, self.padding)
        return activate(x, self.activation, clamp)


def resampled_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, resample: str | None, kernel: Tensor, padding: int
) -> Tensor:
    """Convolve ``x`` (B, I, H, W) with ``weight`` (O, I, k, k), k in {1, 3}, and double or halve its size."""
    size = kernel.shape[0]
    if resample is None:
        return F.conv2d(x, weight, bias, padding=padding)
    if resample == "down":
        if padding == 0:  # 1x1: filter and stride first, on fewer pixels
            return F.conv2d(downsample2d(x, kernel), weight, bias)
        x = blur(x, kernel, (padding + (size - 1) // 2, padding + (size - 2) // 2))
        return F.conv2d(x, weight, bias, stride=2)
    if padding == 0:
        x = upsample2d(F.conv2d(x, weight), kernel)
    else:
        x = smoothed(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), kernel, padding)
    return x if bias is None else x + bias[:, None, None]


def smoothed(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Low-pass filter of what a transposed convolution gives, (B, C, 2H + 1, 2W + 1), to (B, C, 2H, 2W)."""
    size = kernel.shape[0]
    return blur(x, kernel, ((size + 1) // 2 - padding, (size - 2) // 2), gain=4.0)


def scale_and_shift(x: Tensor, scale: Tensor, *shifts: Tensor) -> Tensor:
    """``x * scale + sum(shifts)`` with broadcasting; overwrites ``x`` where no gradient is recorded."""
    if torch.is_grad_enabled():
        x = torch.addcmul(shifts[0], x, scale)
        for shift in shifts[1:]:
            x = x + shift
        return x
    x = x.mul_(scale)
    for shift in shifts:
        x = x.add_(shift)
    return x


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (StyleGAN2, equations 1-3).

    ``x`` (B, in_channels, H, W) and style ``w`` (B, w_dim) to (B, out_channels, H', W'), H' = 2H if ``up``.
    """

    ganzip_quantizable = True
    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: bool = False,
        resample_filter: tuple[int, ...] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.resample = "up" if up else None
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", blur_kernel(resample_filter))

    @property
    def integer_geometry(self) -> dict[str, Any]:
        """How its modulated inputs meet the weight."""
        if self.resample is None:
            return {"kind": "conv2d", "padding": (1, 1)}
        return {"kind": "conv_transpose2d", "stride": (2, 2)}

    def integer_product(self, x: Tensor) -> Tensor | None:
        """Modulated inputs times the weight, where a packed layer computes with integers."""
        return None

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: str = "random",
        generator: torch.Generator | list[torch.Generator] | None = None,
        gain: float = 1.0,
    ) -> Tensor:
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = gain * ACTIVATION_GAINS["lrelu"]
        styles = self.affine(w)  # (B, I)
        x = x * styles.to(x.dtype)[:, :, None, None]
        product = self.integer_product(x)
        if product is None:
            weight = self.weight  # (O, I, 3, 3)
            energy = at_least_float32(weight).square().sum(dim=(2, 3))  # (O, I)
            x = resampled_conv2d(x, weight.to(x.dtype), None, self.resample, self.resample_filter, 1)
        else:
            energy = self.integer_energy()  # type: ignore[operator]  # the packed layer's
            x = product if self.resample is None else smoothed(product, self.resample_filter, 1)
        scale = self.demodulation(styles, energy).mul(gain).to(x.dtype)  # (B, O)
        shifts = [(self.bias * gain).to(x.dtype)[:, None, None]]
        if noise_mode != "none":
            noise = noise_for(x, self.noise_const, noise_mode, generator)
            shifts.append((noise * (self.noise_strength * gain)).to(x.dtype))
        return activate(scale_and_shift(x, scale[:, :, None, None], *shifts), "lrelu", clamp)

    @staticmethod
    def demodulation(styles: Tensor, energy: Tensor) -> Tensor:
        """Inverse norm (B, O) of each sample's modulated weights, in float32 or wider.

        ``styles`` (B, I); ``energy`` (O, I): squares of the weights, summed over taps.
        """
        return (F.linear(at_least_float32(styles).square(), energy) + 1e-8).rsqrt()


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution without demodulation: features (B, in_channels, H, W) to image (B, C, H, W)."""

    ganzip_quantizable = True

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, conv_clamp: float | None = None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = (self.affine(w) * self.weight_gain).to(x.dtype)
        weight = self.weight.to(x.dtype).flatten(1) * styles[:, None]  # (B, O, I)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H * W, I), a view in channels_last
        image = torch.baddbmm(self.bias.to(x.dtype), pixels, weight.transpose(1, 2))
        return activate(image.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), "linear", self.conv_clamp)
