# SPDX-License-Identifier: Apache-2.0
"""Defaults of generative adversarial networks."""

from __future__ import annotations

import torch
from torch import nn


def stylegan_last_block(model: nn.Module) -> tuple[str, ...]:
    """The block of the highest resolution: its convolutions, image output and their affine layers."""
    return (f"synthesis.b{model.config.resolution}.*",)


def discriminator_last_block(model: nn.Module) -> tuple[str, ...]:
    """The 4x4 block with the output layers."""
    return ("b4.*",)


def latent_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two latents (2, z_dim), labels where needed, stored noise."""
    generator = torch.Generator().manual_seed(0)
    classes = model.config.num_classes
    labels = torch.arange(2) % classes if classes else None
    return (torch.randn(2, model.config.z_dim, generator=generator), labels), {"noise_mode": "const"}


def image_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two images (2, C, H, W) in [-1, 1], labels where needed."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, model.config.image_channels, model.config.resolution, model.config.resolution)
    classes = model.config.num_classes
    labels = torch.arange(2) % classes if classes else None
    return (torch.rand(shape, generator=generator) * 2 - 1, labels), {}
