# SPDX-License-Identifier: Apache-2.0
"""BigGAN discriminator with projection (Brock et al., 2019) or the twin classifiers of TAC-GAN (Gong et al., 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import DiscriminatorMixin, DiscriminatorOutput, one_hot_labels, width_pairs
from .biggan_layers import DiscriminatorBlock, SelfAttention, initialize_, official_widths
from .spectral_norm import SNClassEmbedding, SNLinear


HEADS = ("projection", "tac", "none")
_MULTIPLIERS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}


def _imagenet(resolution: int, attention: int, base: int) -> dict[str, Any]:
    return {
        "resolution": resolution,
        "num_classes": 1000,
        "channel_base": base,
        "attention_blocks": (attention,),
        "sn_eps": 1e-6,
    }


class BigGANDiscriminator(DiscriminatorMixin, ModelMixin, ConfigMixin):
    """BigGAN discriminator; state-dict keys follow BigGAN-PyTorch (TAC-BigGAN for ``head="tac"``).

    Args:
        resolution: Image side in pixels.
        image_channels: 3 for RGB, 1 for grey images.
        num_classes: Number of classes; 0 only for ``head="none"``.
        channels: One width, or a pair (hidden, output), per block; None: the official widths for ``channel_base``.
        channel_base: Used only if ``channels`` is None.
        downsample: Whether each block halves the size; None: the official choice, (T, T, F, F) for 32 pixels, else all
            but the last.
        attention_blocks: Indices of the blocks that attention follows.
        head: "projection" (needs class labels), "tac" (an auxiliary and a twin classifier) or "none" (unconditional).
        sn_eps: Of the spectral norms.
        spectral_norm: False: ordinary layers, for weights that are already divided.
        init: "ortho", "N02" or "xavier".
        feature_quantizers: Written by :func:`.add_feature_quantizers`.

    Example:
        >>> D = BigGANDiscriminator(resolution=32, num_classes=3, channels=(8, 8, 8, 8))
        >>> D(torch.zeros(2, 3, 32, 32), torch.tensor([0, 2])).logits.shape
        torch.Size([2, 1])
    """

    PRESETS = {
        "cifar10": {"resolution": 32, "num_classes": 10, "init": "N02", "sn_eps": 1e-8},
        "cifar100": {"resolution": 32, "num_classes": 100, "init": "N02", "sn_eps": 1e-8},
        "cifar100-tac": {"resolution": 32, "num_classes": 100, "init": "N02", "sn_eps": 1e-8, "head": "tac"},
        "imagenet-64": _imagenet(64, 0, 64),
        "imagenet-128": _imagenet(128, 0, 96),
        "imagenet-256": _imagenet(256, 1, 96),
        "imagenet-512": _imagenet(512, 2, 96),
    }

    @register_to_config
    def __init__(
        self,
        resolution: int = 32,
        image_channels: int = 3,
        num_classes: int = 10,
        channels: tuple[Any, ...] | None = None,
        channel_base: int = 64,
        downsample: tuple[bool, ...] | None = None,
        attention_blocks: tuple[int, ...] = (),
        head: str = "projection",
        sn_eps: float = 1e-12,
        spectral_norm: bool = True,
        init: str = "ortho",
        feature_quantizers: dict[str, Any] | None = None,
    ):
        super().__init__()
        eps = sn_eps if spectral_norm else None
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; allowed are {', '.join(HEADS)}.")
        if (num_classes < 1) != (head == "none"):
            raise ValueError(f"num_classes is {num_classes} with head={head!r}; only head='none' has no classes.")
        if channels is None:
            channels = official_widths(_MULTIPLIERS, resolution, channel_base)
            self.register_to_config(channels=channels)
        widths = width_pairs(channels)
        if downsample is None:
            halvings = 2 if resolution == 32 else len(widths) - 1
            downsample = tuple(index < halvings for index in range(len(widths)))
            self.register_to_config(downsample=downsample)
        if len(downsample) != len(widths):
            raise ValueError(f"downsample has {len(downsample)} entries for {len(widths)} blocks.")
        self.blocks = nn.ModuleList()
        in_channels = image_channels
        for index, (hidden, out) in enumerate(widths):
            block = DiscriminatorBlock(in_channels, hidden, out, index == 0, downsample[index], eps)
            attention = [SelfAttention(out, eps)] if index in attention_blocks else []
            self.blocks.append(nn.Sequential(block, *attention))
            in_channels = out
        self.linear = SNLinear(in_channels, 1, sn_eps=eps)
        if head == "projection":
            self.embed = SNClassEmbedding(num_classes, in_channels, sn_eps=eps)
        elif head == "tac":
            self.linear_mi = SNLinear(in_channels, num_classes, sn_eps=eps)
            self.linear_c = SNLinear(in_channels, num_classes, sn_eps=eps)
        initialize_(self, init)
        self.restore_feature_quantizers(feature_quantizers)

    def score(self, images: Tensor, class_labels: Tensor | None) -> DiscriminatorOutput:
        x = images.to(self.linear.bias.dtype).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        features = F.relu(x).sum(dim=(2, 3))  # (B, C)
        logits, class_logits, twin_logits = self.linear(features), None, None
        if self.config.head == "projection":
            rows = one_hot_labels(class_labels, self.config.num_classes, images.shape[0], features.dtype)
            logits = logits + (self.embed(rows) * features).sum(dim=1, keepdim=True)
        elif self.config.head == "tac":
            class_logits, twin_logits = self.linear_c(features), self.linear_mi(features)
        return DiscriminatorOutput(logits=logits, class_logits=class_logits, twin_logits=twin_logits)
