# SPDX-License-Identifier: Apache-2.0
"""Defaults of diffusion models."""

from __future__ import annotations

import torch
from torch import nn


def unet_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last residual block of the last up block, and the output convolution."""
    block = len(model.up_blocks) - 1
    resnet = len(model.up_blocks[block].resnets) - 1
    return (f"up_blocks.{block}.resnets.{resnet}.*", "conv_out.*")


def unet_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two noisy images (2, C, H, W) at timestep 10."""
    size = model.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, model.config.in_channels, height, width, generator=generator), 10), {}
