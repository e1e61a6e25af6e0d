# SPDX-License-Identifier: Apache-2.0
"""BigGAN generator (Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import RandomSource, one_hot_labels, width_pairs
from .biggan_layers import (
    ClassGeneratorMixin,
    GeneratorBlock,
    OutputBatchNorm,
    SelfAttention,
    initialize_,
    official_widths,
)
from .spectral_norm import ClassEmbedding, SNConv2d, SNLinear


_MULTIPLIERS = {  # of the 4 x 4 features, then of the output of every block
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}


def _imagenet(resolution: int, z_dim: int, attention: int, base: int) -> dict[str, Any]:
    return {
        "resolution": resolution,
        "num_classes": 1000,
        "z_dim": z_dim,
        "channel_base": base,
        "shared_dim": 128,
        "hierarchical": True,
        "attention_blocks": (attention,),
        "sn_eps": 1e-6,
    }


class BigGANGenerator(ClassGeneratorMixin, ModelMixin, ConfigMixin):
    """BigGAN generator; state-dict keys follow BigGAN-PyTorch.

    Args:
        resolution: Image side in pixels: 4 * 2 ** (number of blocks).
        image_channels: 3 for RGB, 1 for grey images.
        z_dim: Dimension of the latent z; with ``hierarchical`` a multiple of the number of blocks + 1.
        num_classes: Number of classes, at least 1.
        channels: Width of the 4 x 4 features, then for every block its width, or a pair (hidden, output).
            Pruned generators are ordinary configs. None: the official widths for ``channel_base``, then written
            into the config.
        channel_base: Used only if ``channels`` is None.
        shared_dim: Dimension of the class embedding that all blocks share; 0: every batch norm has an embedding of its
            own.
        hierarchical: Every block sees a part of z of its own.
        attention_blocks: Indices of the blocks that attention follows.
        bn_eps: Of the conditional batch norms.
        sn_eps: Of the spectral norms.
        spectral_norm: False: ordinary layers, for weights that are already divided.
        init: "ortho", "N02" or "xavier".

    Raises:
        ValueError: Options out of range or that contradict each other, no classes included.

    Example:
        >>> G = BigGANGenerator(resolution=16, z_dim=8, num_classes=3, channels=(8, 8, 4))
        >>> G.eval()(torch.randn(2, 8), torch.tensor([0, 2])).sample.shape
        torch.Size([2, 3, 16, 16])
    """

    PRESETS = {
        "cifar10": {"resolution": 32, "z_dim": 128, "num_classes": 10, "init": "N02", "sn_eps": 1e-8},
        "cifar100": {"resolution": 32, "z_dim": 128, "num_classes": 100, "init": "N02", "sn_eps": 1e-8},
        "imagenet-64": _imagenet(64, 120, 2, 64),
        "imagenet-128": _imagenet(128, 120, 3, 96),
        "imagenet-256": _imagenet(256, 119, 3, 96),
        "imagenet-512": _imagenet(512, 128, 3, 96),
    }
    truncates_only_latents = True
    _no_split_modules = ["GeneratorBlock"]
    _repeated_blocks = ["GeneratorBlock"]

    @register_to_config
    def __init__(
        self,
        resolution: int = 32,
        image_channels: int = 3,
        z_dim: int = 128,
        num_classes: int = 10,
        channels: tuple[Any, ...] | None = None,
        channel_base: int = 64,
        shared_dim: int = 0,
        hierarchical: bool = False,
        attention_blocks: tuple[int, ...] = (),
        bn_eps: float = 1e-5,
        sn_eps: float = 1e-12,
        spectral_norm: bool = True,
        init: str = "ortho",
    ):
        super().__init__()
        eps = sn_eps if spectral_norm else None
        if channels is None:
            channels = official_widths(_MULTIPLIERS, resolution, channel_base)
            self.register_to_config(channels=channels)
        bottom, widths = channels[0], width_pairs(channels[1:])
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; allowed are 1 and more.")
        if 4 * 2 ** len(widths) != resolution:
            raise ValueError(
                f"channels has {len(widths)} blocks, which give {4 * 2 ** len(widths)} pixels; resolution is "
                f"{resolution}."
            )
        self.slots = len(widths) + 1 if hierarchical else 1
        if z_dim % self.slots:
            raise ValueError(f"z_dim is {z_dim}; with hierarchical=True it must be a multiple of {self.slots}.")
        chunk = z_dim // self.slots
        condition = (shared_dim or num_classes) + (chunk if hierarchical else 0)
        if hierarchical and not shared_dim:
            raise ValueError("hierarchical=True needs a shared class embedding (shared_dim > 0).")
        self.shared = ClassEmbedding(num_classes, shared_dim) if shared_dim else nn.Identity()
        self.linear = SNLinear(chunk, bottom * 16, sn_eps=eps)
        self.blocks = nn.ModuleList()
        for index, (hidden, out) in enumerate(widths):
            block = GeneratorBlock(bottom, hidden, out, condition, bool(shared_dim), bn_eps, eps)
            attention = [SelfAttention(out, eps)] if index in attention_blocks else []
            self.blocks.append(nn.ModuleList([block, *attention]))
            bottom = out
        self.output_layer = nn.Sequential(
            OutputBatchNorm(bottom), nn.ReLU(), SNConv2d(bottom, image_channels, 3, sn_eps=eps)
        )
        initialize_(self, init)

    def draw_latents(
        self, count: int, generator: RandomSource = None, device: Any = None, truncation_psi: float = 1.0
    ) -> Tensor:
        """Latents z (count, z_dim): normal with standard deviation ``truncation_psi``, as in BigGAN-PyTorch."""
        return super().draw_latents(count, generator, device) * truncation_psi

    def raw_images(self, z: Tensor, class_labels: Tensor | None, truncation_psi: float) -> Tensor:
        dtype = self.linear.bias.dtype
        y = self.shared(one_hot_labels(class_labels, self.config.num_classes, z.shape[0], dtype))
        first, *parts = z.to(dtype).chunk(self.slots, dim=1)
        x = self.linear(first).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        block: Any
        for index, block in enumerate(self.blocks):
            condition = torch.cat([y, parts[index]], dim=1) if parts else y
            for layer in block:
                x = layer(x, condition)
        return self.output_layer(x)
