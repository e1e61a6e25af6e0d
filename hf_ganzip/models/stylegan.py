# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN generator.

Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks", CVPR 2019.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import RandomSource, RecomputingModule, width_pairs
from .stylegan2_layers import EqualizedConv2d, blur, blur_kernel
from .stylegan_base import (
    FullyConnectedLayer,
    MappingNetwork,
    StyleGeneratorMixin,
    at_least_float32,
    channel_widths,
    noise_for,
    resolutions,
)


class StyleLayer(nn.Module):
    """Noise, bias, leaky ReLU, instance norm, and the style's scale and shift of x (B, C, H, W)."""

    noise_const: Tensor

    def __init__(self, channels: int, w_dim: int, resolution: int):
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = FullyConnectedLayer(w_dim, 2 * channels)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, generator: RandomSource) -> Tensor:
        if noise_mode != "none":
            noise = noise_for(x, self.noise_const, noise_mode, generator)
            x = x + (noise * self.noise_strength[:, None, None]).to(x.dtype)
        x = F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], 0.2)
        wide = at_least_float32(x)
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
        scale, shift = self.affine(w).to(wide.dtype).chunk(2, dim=1)
        scale = (scale + 1) * (var + 1e-8).rsqrt()
        centered = wide - mean[:, :, None, None]  # first: features of the constant may vary very little
        return torch.addcmul(shift[:, :, None, None], centered, scale[:, :, None, None]).to(x.dtype)


class SynthesisBlock(nn.Module):
    """One resolution: a constant (4 x 4) or upsampling convolution, and a convolution, each with a style."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, widths: tuple[int, int], w_dim: int, resolution: int, taps: tuple[int, ...]):
        super().__init__()
        if in_channels == 0:
            self.const = nn.Parameter(torch.ones(widths[0], resolution, resolution))
        else:
            self.conv0 = EqualizedConv2d(in_channels, widths[0], 3, bias=False)
            self.register_buffer("resample_filter", blur_kernel(taps))
        self.style0 = StyleLayer(widths[0], w_dim, resolution)
        self.conv1 = EqualizedConv2d(widths[0], widths[1], 3, bias=False)
        self.style1 = StyleLayer(widths[1], w_dim, resolution)

    def forward(
        self, x: Tensor | None, ws: Tensor, dtype: torch.dtype, noise_mode: str, generator: RandomSource = None
    ) -> Tensor:
        gain = math.sqrt(2)
        if x is None:
            x = self.const.to(dtype)[None].expand(ws.shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(F.interpolate(x, scale_factor=2), gain=gain)
            size = len(self.resample_filter)
            x = blur(x, self.resample_filter, ((size - 1) // 2, size // 2))
        x = self.style0(x, ws[:, 0], noise_mode, generator)
        return self.style1(self.conv1(x, gain=gain), ws[:, 1], noise_mode, generator)


class SynthesisNetwork(RecomputingModule):
    """Styles ws (B, num_ws, w_dim) to images (B, C, H, W) float32."""

    def __init__(
        self, resolution: int, image_channels: int, w_dim: int, channels: tuple[Any, ...], taps: tuple[int, ...]
    ):
        super().__init__()
        self.block_resolutions = resolutions(resolution, channels)
        self.num_ws = 2 * len(channels)
        in_channels = 0
        for size, widths in zip(self.block_resolutions, width_pairs(channels)):
            setattr(self, f"b{size}", SynthesisBlock(in_channels, widths, w_dim, size, taps))
            in_channels = widths[1]
        self.torgb = EqualizedConv2d(in_channels, image_channels, 1)

    def forward(
        self, ws: Tensor, dtype: torch.dtype, noise_mode: str = "random", generator: RandomSource = None
    ) -> Tensor:
        x = None
        for index, size in enumerate(self.block_resolutions):
            pair = ws[:, 2 * index : 2 * index + 2]
            x = self.run(getattr(self, f"b{size}"), x, pair, dtype, noise_mode, generator=generator)
        return at_least_float32(self.torgb(x))


class StyleGANGenerator(StyleGeneratorMixin, ModelMixin, ConfigMixin):
    """StyleGAN generator (configuration A of the StyleGAN2 paper).

    Its configurations B to D, which demodulate weights, are ``StyleGAN2Generator(architecture="orig")``.

    Args:
        resolution: Image side in pixels, a power of two.
        image_channels: 3 for RGB, 1 for grey images.
        z_dim: Dimension of the latent z.
        w_dim: Dimension of the style w.
        num_classes: 0; the network has no classes.
        mapping_layers: Fully connected layers of the mapping network.
        channels: One entry per resolution 4, 8, ..., ``resolution``: a width, or a pair (constant or first
            convolution, second convolution). None: the official widths for ``channel_base`` and ``channel_max``, then
            written into the config.
        channel_base: Used only if ``channels`` is None.
        channel_max: Used only if ``channels`` is None.
        resample_filter: 1-D taps of the blur after upsampling.
        w_avg_beta: Decay of the running mean of w, updated by forwards in training mode.

    Raises:
        ValueError: Options out of range or that contradict each other, classes included.

    Example:
        >>> G = StyleGANGenerator(resolution=16, z_dim=8, w_dim=8, channels=(8, 8, 4))
        >>> G(torch.randn(2, 8)).sample.shape
        torch.Size([2, 3, 16, 16])
    """

    PRESETS = {"ffhq-1024": {"resolution": 1024}, "bedroom-256": {"resolution": 256}}
    _supports_gradient_checkpointing = True
    _no_split_modules = ["SynthesisBlock"]
    _repeated_blocks = ["SynthesisBlock"]
    _keep_in_fp32_modules = ["mapping"]

    @register_to_config
    def __init__(
        self,
        resolution: int = 1024,
        image_channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        num_classes: int = 0,
        mapping_layers: int = 8,
        channels: tuple[Any, ...] | None = None,
        channel_base: int = 16384,
        channel_max: int = 512,
        resample_filter: tuple[int, ...] = (1, 2, 1),
        w_avg_beta: float = 0.995,
    ):
        super().__init__()
        if num_classes:
            raise ValueError(f"num_classes is {num_classes}; StyleGAN has no classes, allowed is 0.")
        if channels is None:
            channels = channel_widths(resolution, channel_base, channel_max)
            self.register_to_config(channels=channels)
        self.synthesis = SynthesisNetwork(resolution, image_channels, w_dim, channels, tuple(resample_filter))
        self.mapping = MappingNetwork(
            z_dim, 0, w_dim, mapping_layers, num_ws=self.synthesis.num_ws, w_avg_beta=w_avg_beta
        )
