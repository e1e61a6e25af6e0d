# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 discriminator (Karras et al., CVPR 2020), with the minibatch standard deviation of ProGAN."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import DiscriminatorMixin, DiscriminatorOutput
from .stylegan2 import LAYOUTS
from .stylegan2_layers import EqualizedConv2d, blur_kernel, downsample2d
from .stylegan_base import (
    STYLEGAN2_PRESETS,
    FullyConnectedLayer,
    MappingNetwork,
    at_least_float32,
    channel_widths,
    resolutions,
)


class DiscriminatorBlock(nn.Module):
    """One resolution: (B, in_channels, H, W) to (B, out_channels, H/2, W/2); ``in_channels=0``: from the image."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        image_channels: int,
        architecture: str,
        resample_filter: tuple[int, ...],
        conv_clamp: float | None,
    ):
        super().__init__()
        self.in_channels, self.architecture = in_channels, architecture
        self.register_buffer("resample_filter", blur_kernel(resample_filter))
        shared: dict[str, Any] = {"activation": "lrelu", "resample_filter": resample_filter, "conv_clamp": conv_clamp}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = EqualizedConv2d(image_channels, width, 1, **shared)
        self.conv0 = EqualizedConv2d(width, width, 3, **shared)
        self.conv1 = EqualizedConv2d(width, out_channels, 3, resample="down", **shared)
        if architecture == "resnet":
            self.skip = EqualizedConv2d(
                width, out_channels, 1, bias=False, resample="down", resample_filter=resample_filter
            )

    def forward(self, x: Tensor | None, image: Any) -> tuple[Tensor, Tensor | None]:
        if self.in_channels == 0 or self.architecture == "skip":
            features = self.fromrgb(image)
            x = features if x is None else x + features
            image = downsample2d(image, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            x = shortcut + self.conv1(self.conv0(x), gain=math.sqrt(0.5))
        else:
            x = self.conv1(self.conv0(x))
        return x, image


def minibatch_std(x: Tensor, group_size: int) -> Tensor:
    """Append one channel holding the mean standard deviation over groups of samples: (B, C, H, W) to (B, C + 1, H, W).

    Raises:
        ValueError: The batch is larger than ``group_size`` and no multiple of it.
    """
    batch, _, height, width = x.shape
    group = min(group_size, batch)
    if batch % group:
        raise ValueError(f"batch size {batch} is not a multiple of mbstd_group_size={group_size}; use one that is.")
    y = at_least_float32(x.reshape(group, -1, *x.shape[1:]))
    std = (y - y.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt().mean(dim=(1, 2, 3))  # (B / group,)
    y = std.to(x.dtype).repeat(group)[:, None, None, None].expand(-1, -1, height, width)
    return torch.cat([x, y], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """Features (B, C, 4, 4) to logits (B, out_dim)."""

    def __init__(
        self,
        in_channels: int,
        out_dim: int,
        image_channels: int,
        architecture: str,
        mbstd_group_size: int,
        conv_clamp: float | None,
    ):
        super().__init__()
        self.mbstd_group_size, self.architecture = mbstd_group_size, architecture
        if architecture == "skip":
            self.fromrgb = EqualizedConv2d(image_channels, in_channels, 1, activation="lrelu")
        mbstd_channels = 1 if mbstd_group_size > 1 else 0
        self.conv = EqualizedConv2d(
            in_channels + mbstd_channels, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnectedLayer(in_channels, out_dim)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        if self.architecture == "skip":
            x = x + self.fromrgb(image)
        if self.mbstd_group_size > 1:
            x = minibatch_std(x, self.mbstd_group_size)
        return self.out(self.fc(self.conv(x).flatten(1)))


class StyleGAN2Discriminator(DiscriminatorMixin, ModelMixin, ConfigMixin):
    """StyleGAN2 discriminator; state-dict keys follow the official checkpoints.

    Args:
        resolution: Image side in pixels, a power of two.
        image_channels: 3 for RGB, 1 for grey images.
        num_classes: 0 for unconditional models; else the logit is a projection on the mapped class.
        channels: One width per resolution 4, 8, ..., ``resolution``; None: the official widths.
        channel_base: Used only if ``channels`` is None.
        channel_max: Used only if ``channels`` is None.
        architecture: "resnet", "skip" or "orig".
        mapping_layers: Layers of the class mapping network.
        mbstd_group_size: Samples per group of the minibatch standard deviation; 1 turns it off.
        conv_clamp: Clamp of layer outputs, or None.
        resample_filter: 1-D taps of the low-pass filter.
        feature_quantizers: Written by :func:`.add_feature_quantizers`.

    Example:
        >>> D = StyleGAN2Discriminator(resolution=16, channels=(8, 8, 4))
        >>> D(torch.zeros(4, 3, 16, 16)).logits.shape
        torch.Size([4, 1])
    """

    PRESETS = STYLEGAN2_PRESETS

    @register_to_config
    def __init__(
        self,
        resolution: int = 256,
        image_channels: int = 3,
        num_classes: int = 0,
        channels: tuple[int, ...] | None = None,
        channel_base: int = 16384,
        channel_max: int = 512,
        architecture: str = "resnet",
        mapping_layers: int = 8,
        mbstd_group_size: int = 4,
        conv_clamp: float | None = None,
        resample_filter: tuple[int, ...] = (1, 3, 3, 1),
        feature_quantizers: dict[str, Any] | None = None,
    ):
        super().__init__()
        if architecture not in LAYOUTS:
            raise ValueError(f"architecture is {architecture!r}; allowed are {', '.join(LAYOUTS)}.")
        if channels is None:
            channels = channel_widths(resolution, channel_base, channel_max)
            self.register_to_config(channels=channels)
        sizes = resolutions(resolution, channels)
        widths = dict(zip(sizes, channels))
        taps = tuple(resample_filter)
        self.block_resolutions = sizes[:0:-1]
        in_channels = 0
        for size in self.block_resolutions:
            block = DiscriminatorBlock(
                in_channels, widths[size], widths[size // 2], image_channels, architecture, taps, conv_clamp
            )
            setattr(self, f"b{size}", block)
            in_channels = widths[size // 2]
        cmap_dim = widths[4] if num_classes else 0
        if num_classes:
            self.mapping = MappingNetwork(0, num_classes, cmap_dim, mapping_layers)
        self.b4 = DiscriminatorEpilogue(
            widths[4], cmap_dim or 1, image_channels, architecture, mbstd_group_size, conv_clamp
        )
        self.restore_feature_quantizers(feature_quantizers)

    def score(self, images: Tensor, class_labels: Tensor | None) -> DiscriminatorOutput:
        dtype = self.b4.conv.bias.dtype  # type: ignore[union-attr]  # it has one
        image, x = images.to(dtype).contiguous(memory_format=torch.channels_last), None
        for size in self.block_resolutions:
            x, image = getattr(self, f"b{size}")(x, image)
        logits = self.b4(x, image)
        if self.config.num_classes:
            projection = self.mapping(None, class_labels)
            logits = (logits * projection).sum(dim=1, keepdim=True) / math.sqrt(projection.shape[1])
        return DiscriminatorOutput(logits=logits)
