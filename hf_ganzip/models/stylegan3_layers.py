# SPDX-License-Identifier: Apache-2.0
"""Layers of StyleGAN3: Fourier features, and modulated convolutions with filtered activations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan3_activation import FilteredActivation
from .stylegan3_filters import Band, lowpass_filter
from .stylegan_base import FullyConnectedLayer, at_least_float32


_TINY = 1e-12  # of mean squares: filters may be zero, after quantization to few bits for example


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
