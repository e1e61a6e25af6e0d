# SPDX-License-Identifier: Apache-2.0
"""Defaults of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def stylegan_last_block(model: nn.Module) -> tuple[str, ...]:
    """The block of the highest resolution: its convolutions, image output and their affine layers."""
    return (f"synthesis.b{model.config.resolution}.*",)


def discriminator_last_block(model: nn.Module) -> tuple[str, ...]:
    """The 4x4 block with the output layers."""
    return ("b4.*",)


def biggan_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last block and the output layer."""
    return (f"blocks.{len(model.blocks) - 1}.*", "output_layer.*")


def biggan_discriminator_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last block and the heads."""
    return (f"blocks.{len(model.blocks) - 1}.*", "linear*", "embed")


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


def latent_calibration(model: nn.Module, batch_size: int, seed: int) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Images (B, C, H, W) of latents z ~ N(0, I), random classes and random noise; batch i depends on (seed, i)."""
    config, device = model.config, next(model.parameters()).device
    number = 0
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        z = torch.randn(batch_size, config.z_dim, generator=generator).to(device)
        labels = None
        if config.num_classes:
            labels = torch.randint(config.num_classes, (batch_size,), generator=generator).to(device)
        state = generator.get_state()

        def forward(module: nn.Module, z=z, labels=labels, state=state) -> Tensor:
            noise = torch.Generator()
            noise.set_state(state)
            return module(z, labels, noise_mode="random", generator=noise, return_dict=False)[0]

        yield forward
        number += 1


def image_calibration(model: nn.Module, batch_size: int, seed: int) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Logits (B, 1) of uniform noise images in [-1, 1] and random classes; batch i depends on (seed, i)."""
    config, device = model.config, next(model.parameters()).device
    number = 0
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        shape = (batch_size, config.image_channels, config.resolution, config.resolution)
        images = (torch.rand(shape, generator=generator) * 2 - 1).to(device)
        labels = None
        if config.num_classes:
            labels = torch.randint(config.num_classes, (batch_size,), generator=generator).to(device)
        yield lambda module, images=images, labels=labels: module(images, labels, return_dict=False)[0]
        number += 1
