# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 generator (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import RandomSource, RecomputingModule, width_pairs
from .stylegan2_layers import EqualizedConv2d, SynthesisLayer, ToRGBLayer, blur_kernel, upsample2d
from .stylegan_base import (
    STYLEGAN2_PRESETS,
    MappingNetwork,
    StyleGeneratorMixin,
    at_least_float32,
    channel_widths,
    resolutions,
)


LAYOUTS = ("skip", "resnet", "orig")  # of image outputs and shortcuts; the option is called ``architecture``


class SynthesisBlock(nn.Module):
    """One resolution of the synthesis network: two modulated convolutions (one at 4x4) and the image output."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,  # 0 for the first block, which starts from a learned constant
        widths: tuple[int, int],  # (conv0 or constant, conv1)
        w_dim: int,
        resolution: int,
        image_channels: int,
        is_last: bool,
        architecture: str,
        resample_filter: tuple[int, ...],
        conv_clamp: float | None,
    ):
        super().__init__()
        self.in_channels, self.architecture = in_channels, architecture
        self.num_convs = 1 if in_channels == 0 else 2
        self.has_torgb = is_last or architecture == "skip"
        self.register_buffer("resample_filter", blur_kernel(resample_filter))
        shared: dict[str, Any] = {"resample_filter": resample_filter, "conv_clamp": conv_clamp}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(widths[0], resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, widths[0], w_dim, resolution, up=True, **shared)
        self.conv1 = SynthesisLayer(widths[0], widths[1], w_dim, resolution, **shared)
        if self.has_torgb:
            self.torgb = ToRGBLayer(widths[1], image_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == "resnet":
            self.skip = EqualizedConv2d(
                in_channels, widths[1], 1, bias=False, resample="up", resample_filter=resample_filter
            )

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        dtype: torch.dtype,
        noise_mode: str,
        generator: RandomSource = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Features (B, I, H/2, W/2) and image so far to features (B, O, H, W) and image (B, C, H, W).

        ``ws`` (B, num_convs + has_torgb, w_dim).
        """
        w = ws.unbind(dim=1)
        if self.in_channels == 0:
            features = self.const.to(dtype)[None].expand(ws.shape[0], -1, -1, -1)
            features = features.contiguous(memory_format=torch.channels_last)
        else:
            features = self.conv0(x, w[0], noise_mode, generator)
        if hasattr(self, "skip"):
            features = self.conv1(features, w[1], noise_mode, generator, gain=math.sqrt(0.5))
            x = self.skip(x, gain=math.sqrt(0.5)) + features
        else:
            x = self.conv1(features, w[self.num_convs - 1], noise_mode, generator)

        if image is not None:
            image = upsample2d(image, self.resample_filter)
        if self.has_torgb:
            rgb = at_least_float32(self.torgb(x, w[self.num_convs]))
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(RecomputingModule):
    """Styles ws (B, num_ws, w_dim) to images (B, C, H, W) float32; ``block``: options of all blocks."""

    def __init__(self, resolution: int, w_dim: int, channels: Sequence[Any], **block: Any):
        super().__init__()
        self.block_resolutions = resolutions(resolution, channels)
        self.num_ws = 2 * len(channels)
        in_channels = 0
        for size, widths in zip(self.block_resolutions, width_pairs(channels)):
            module = SynthesisBlock(in_channels, widths, w_dim, size, is_last=size == resolution, **block)
            setattr(self, f"b{size}", module)
            in_channels = widths[1]

    def forward(
        self, ws: Tensor, dtype: torch.dtype, noise_mode: str = "random", generator: RandomSource = None
    ) -> Tensor:
        x = image = None
        start = 0
        for size in self.block_resolutions:
            block = getattr(self, f"b{size}")
            block_ws = ws[:, start : start + block.num_convs + 1]
            start += block.num_convs
            x, image = self.run(block, x, image, block_ws, dtype, noise_mode, generator=generator)
        return image  # type: ignore[return-value]  # the last block draws one


class StyleGAN2Generator(StyleGeneratorMixin, ModelMixin, ConfigMixin):
    """StyleGAN2 generator; state-dict keys follow the official checkpoints (``mapping.fc0.weight``, ...).

    Args:
        resolution: Image side in pixels, a power of two.
        image_channels: 3 for RGB, 1 for grey images.
        z_dim: Dimension of the latent z.
        w_dim: Dimension of the style w.
        num_classes: 0 for unconditional models.
        mapping_layers: Fully connected layers of the mapping network.
        channels: One entry per resolution 4, 8, ..., ``resolution``: a width, or a pair (first, second) where the first
            is that of the constant (at 4) or of ``conv0`` and the second that of ``conv1``. Pruned generators are
            ordinary configs. None: the official widths for ``channel_base`` and ``channel_max``, then written into the
            config.
        channel_base: Used only if ``channels`` is None.
        channel_max: Used only if ``channels`` is None.
        architecture: "skip", "resnet" or "orig".
        conv_clamp: Clamp of layer outputs, or None.
        resample_filter: 1-D taps of the low-pass filter.
        w_avg_beta: Decay of the running mean of w, updated by forwards in training mode.

    Example:
        >>> G = StyleGAN2Generator(resolution=16, z_dim=8, w_dim=8, channels=(8, 8, 4))
        >>> G(torch.randn(2, 8)).sample.shape
        torch.Size([2, 3, 16, 16])
    """

    PRESETS = STYLEGAN2_PRESETS
    _supports_gradient_checkpointing = True
    _no_split_modules = ["SynthesisBlock"]
    _repeated_blocks = ["SynthesisBlock"]
    _keep_in_fp32_modules = ["mapping"]

    @register_to_config
    def __init__(
        self,
        resolution: int = 256,
        image_channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        num_classes: int = 0,
        mapping_layers: int = 8,
        channels: tuple[Any, ...] | None = None,
        channel_base: int = 16384,
        channel_max: int = 512,
        architecture: str = "skip",
        conv_clamp: float | None = None,
        resample_filter: tuple[int, ...] = (1, 3, 3, 1),
        w_avg_beta: float = 0.995,
    ):
        super().__init__()
        if architecture not in LAYOUTS:
            raise ValueError(f"architecture is {architecture!r}; allowed are {', '.join(LAYOUTS)}.")
        if channels is None:
            channels = channel_widths(resolution, channel_base, channel_max)
            self.register_to_config(channels=channels)
        self.synthesis = SynthesisNetwork(
            resolution,
            w_dim,
            channels,
            image_channels=image_channels,
            architecture=architecture,
            resample_filter=tuple(resample_filter),
            conv_clamp=conv_clamp,
        )
        self.mapping = MappingNetwork(
            z_dim, num_classes, w_dim, mapping_layers, num_ws=self.synthesis.num_ws, w_avg_beta=w_avg_beta
        )
