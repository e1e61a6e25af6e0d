# SPDX-License-Identifier: Apache-2.0
"""Layers of StyleGAN3 (Karras et al., NeurIPS 2021, appendix C): its design (band, width and low-pass filters of every
layer), the filtered activation, Fourier features, and modulated convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan_base import FullyConnectedLayer, at_least_float32


_MATRIX_LIMIT = 160  # pixels of the input: up to here one dense matrix per axis is faster than strided filters on CPUs
_TINY = 1e-12  # of mean squares: filters may be zero, after quantization to few bits for example


@dataclass(frozen=True)
class Band:
    """Signal after a layer: side and sampling rate in pixels, cutoff and half width of its transition in cycles."""

    size: int
    sampling_rate: int
    cutoff: float
    half_width: float


def bands(
    resolution: int,
    num_layers: int,
    num_critical: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband_rel: float,
    margin_size: int,
) -> list[Band]:
    """Geometric progression of cutoffs from the first to the critically sampled last layers, num_layers + 1 in all."""
    last_cutoff = resolution / 2
    exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** exponents
    stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + margin_size * 2
    sizes[-2:] = resolution
    return [Band(int(s), int(r), float(c), float(h)) for s, r, c, h in zip(sizes, rates, cutoffs, half_widths)]


def layer_widths(found: list[Band], channel_base: int, channel_max: int) -> tuple[int, ...]:
    """Official input widths of all layers: (channel_base / 2) / cutoff, at most ``channel_max``."""
    widths = [int(min(round(channel_base / 2 / band.cutoff), channel_max)) for band in found]
    return (widths[0], *widths[:-1])


def kaiser_beta(taps: int, width: float) -> float:
    """Shape of the Kaiser window for a transition band of ``width`` (1 = half the sampling rate) (Kaiser, 1974)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def lowpass_filter(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> Tensor | None:
    """Windowed low-pass filter with sum 1: (taps,) separable or (taps, taps) radially symmetric, float32.

    Args:
        taps: Length; 1 means no filter and gives None.
        cutoff: Frequency in cycles per unit.
        width: Of the transition band.
        sampling_rate: Samples per unit.
        radial: Jinc instead of sinc.
    """
    if taps == 1:
        return None
    window = np.kaiser(taps, kaiser_beta(taps, width / (sampling_rate / 2)))
    time = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    if radial:
        radius = np.hypot(*np.meshgrid(time, time))
        bessel = torch.special.bessel_j1(torch.as_tensor(2 * math.pi * cutoff * radius, device="cpu")).numpy()
        kernel = bessel / (math.pi * radius) * np.outer(window, window)
    else:
        kernel = np.sinc(2 * cutoff * time) * window
    return torch.as_tensor(kernel / kernel.sum(), dtype=torch.float32)


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
        if gain != 1:
            x = x * gain  # above 0, it may go before the activation, where there are fewer pixels
        x = self._upsample(x, up_filter)
        inplace = not torch.is_grad_enabled()
        if slope != 1:
            x = F.leaky_relu(x, slope, inplace=inplace)
        if clamp is not None:
            x = F.hardtanh(x, -clamp, clamp, inplace=inplace)  # the gradient of clamp takes five passes
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


class FourierInput(nn.Module):
    """Fourier features of a plane that the first style rotates and moves: w (B, w_dim) to (B, channels, size, size)."""

    ganzip_quantizable = True
    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, channels: int, frequencies: int, size: int, sampling_rate: int, bandwidth: float):
        super().__init__()
        self.size, self.sampling_rate, self.bandwidth = size, sampling_rate, bandwidth
        freqs = torch.randn(frequencies, 2)
        radii = freqs.norm(dim=1, keepdim=True)
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * bandwidth  # uniform in the disk
        self.weight = nn.Parameter(torch.randn(channels, frequencies))
        self.affine = FullyConnectedLayer(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(frequencies) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        wide = at_least_float32(self.freqs).dtype
        cos, sin, x, y = self._placement(w).to(wide).unbind(dim=1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).view(-1, 3, 3)
        transform = rotation @ shift @ self.transform.to(wide)
        freqs, phases = self.freqs.to(wide), self.phases.to(wide)
        phases = phases + (freqs @ transform[:, :2, 2:]).squeeze(2)  # (B, F)
        freqs = freqs @ transform[:, :2, :2]  # (B, F, 2)
        cutoff = self.sampling_rate / 2
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / (cutoff - self.bandwidth)).clamp(0, 1)
        axis = (torch.arange(self.size, device=w.device, dtype=wide) + 0.5) / self.sampling_rate
        axis = axis - 0.5 * self.size / self.sampling_rate
        # The angle of a plane wave is the sum of one term per axis.
        rows = freqs[:, None, :, 1] * axis[:, None] + phases[:, None]  # (B, H, F)
        columns = freqs[:, None, :, 0] * axis[:, None]
        waves = torch.sin((rows[:, :, None] + columns[:, None]) * (2 * math.pi)) * amplitudes[:, None, None]
        weight = self.weight.to(wide)
        weight = weight / math.sqrt(weight.shape[1])
        return F.linear(waves, weight).permute(0, 3, 1, 2)

    def _placement(self, w: Tensor) -> Tensor:
        """(cos, sin, x, y) of the rotation and translation, (B, 4)."""
        t = self.affine(w)
        return t / t[:, :2].norm(dim=1, keepdim=True)


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU, or the image output (1 x 1, linear).

    ``x`` (B, in_channels, H, W) and style ``w`` (B, w_dim) to (B, out_channels, H', W').
    """

    ganzip_quantizable = True
    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        before: Band,
        after: Band,
        *,
        is_image: bool,
        radial: bool,
        kernel_size: int,
        filter_size: int,
        lrelu_upsampling: int,
        conv_clamp: float | None,
        magnitude_ema_beta: float,
    ):
        super().__init__()
        self.is_image, self.conv_clamp, self.magnitude_ema_beta = is_image, conv_clamp, magnitude_ema_beta
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        rate = max(before.sampling_rate, after.sampling_rate) * (1 if is_image else lrelu_upsampling)
        up, down = rate // before.sampling_rate, rate // after.sampling_rate
        up_taps = filter_size * up if up > 1 and not is_image else 1
        down_taps = filter_size * down if down > 1 and not is_image else 1
        self.register_buffer("up_filter", lowpass_filter(up_taps, before.cutoff, before.half_width * 2, rate))
        self.register_buffer(
            "down_filter", lowpass_filter(down_taps, after.cutoff, after.half_width * 2, rate, radial=radial)
        )
        size = before.size + kernel_size - 1
        total = (after.size - 1) * down + 1 - size * up + up_taps + down_taps - 2
        start = (total + up) // 2
        self.activation = FilteredActivation(size, up, down, (start, total - start))

    @torch.no_grad()
    def update_magnitude_(self, x: Tensor) -> None:
        """Move the running mean square of the inputs towards that of ``x``."""
        magnitude = at_least_float32(x).square().mean()
        self.magnitude_ema.copy_(magnitude.lerp(self.magnitude_ema.to(magnitude.dtype), self.magnitude_ema_beta))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        input_gain = at_least_float32(self.magnitude_ema).rsqrt()
        styles = at_least_float32(self.affine(w))
        weight = at_least_float32(self.weight)
        if self.is_image:
            styles = styles / math.sqrt(weight[0].numel())
            scale = input_gain.expand(styles.shape[0], len(weight))
        else:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY).rsqrt()
            styles = styles * styles.square().mean(dim=1, keepdim=True).clamp_min(_TINY).rsqrt()
            energy = F.linear(styles.square(), weight.square().sum(dim=(2, 3)))
            scale = (energy + 1e-8).rsqrt() * input_gain  # (B, O)
        padding = weight.shape[2] - 1
        x = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=padding)
        x = x * scale.to(x.dtype)[:, :, None, None]
        gain, slope = (1.0, 1.0) if self.is_image else (math.sqrt(2), 0.2)
        return self.activation(
            x, self.bias, self.up_filter, self.down_filter, gain=gain, slope=slope, clamp=self.conv_clamp
        )
