# SPDX-License-Identifier: Apache-2.0
"""Defaults of generative adversarial networks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .passes import Pass
from .sensitive import always


if TYPE_CHECKING:
    from diffusers import ModelMixin


_PATCH_SIZE = 256  # side of the images for networks that accept any


discriminator_last_block = always("b4.*")  # the 4x4 block with the output layers
translation_last_block = always("UpBlock2.*")  # the upsampling layers and the image output
patch_discriminator_last_block = always("conv1x1", "conv")  # the layers after the attention


def stylegan1_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The block of the highest resolution and the image output."""
    return (f"synthesis.b{model.config.resolution}.*", "synthesis.torgb.*")


def stylegan_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The block of the highest resolution: its convolutions, image output and their affine layers."""
    return (f"synthesis.b{model.config.resolution}.*",)


def stylegan3_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last critically sampled layer and the image output."""
    return tuple(f"synthesis.{name}*" for name in model.synthesis.layer_names[-2:])


def biggan_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last block and the output layer."""
    return (f"blocks.{len(model.blocks) - 1}.*", "output_layer.*")


def biggan_deep_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last block and the image output."""
    return (f"generator.layers.{len(model.generator.layers) - 1}.*", "generator.conv_to_rgb")


def biggan_discriminator_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last block and the heads."""
    return (f"blocks.{len(model.blocks) - 1}.*", "linear*", "embed")


def latent_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two latents (2, z_dim), labels where needed, stored noise."""
    generator = torch.Generator().manual_seed(0)
    classes = model.config.num_classes
    labels = torch.arange(2) % classes if classes else None
    return (model.draw_latents(2, generator), labels), {"noise_mode": "const"}


def image_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two images (2, C, H, W) in [-1, 1], labels where needed."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_image_shape(model, 2), generator=generator) * 2 - 1
    classes = model.config.get("num_classes", 0)
    return (images, torch.arange(2) % classes) if classes else (images,), {}


def _image_shape(model: ModelMixin, batch_size: int) -> tuple[int, ...]:
    side = model.config.get("resolution", _PATCH_SIZE)
    return batch_size, model.config.image_channels, side, side


def latent_calibration(model: ModelMixin, batch_size: int, seed: int) -> Iterator[Pass]:
    """Images (B, C, H, W) of random latents, random classes and random noise; batch i depends on (seed, i)."""
    for z, labels, noise_state in _latents(model, batch_size, seed):
        yield functools.partial(_generate, z=z, labels=labels, noise_state=noise_state)


def style_calibration(model: ModelMixin, batch_size: int, seed: int) -> Iterator[Pass]:
    """Styles (B, L, w_dim) of random latents and random classes; batch i depends on (seed, i)."""
    for z, labels, _ in _latents(model, batch_size, seed):
        yield functools.partial(_map, z=z, labels=labels)


def _latents(model: ModelMixin, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    config, device = model.config, next(model.parameters()).device
    for number in itertools.count():
        generator = _generator_of_batch(seed, number)
        z, labels = model.draw_latents(batch_size, generator).to(device), None
        if config.num_classes:
            labels = torch.randint(config.num_classes, (batch_size,), generator=generator).to(device)
        yield z, labels, generator.get_state()


def image_calibration(model: ModelMixin, batch_size: int, seed: int) -> Iterator[Pass]:
    """Outputs (B, ...) for uniform noise images in [-1, 1] and random classes; batch i depends on (seed, i)."""
    classes, device = model.config.get("num_classes", 0), next(model.parameters()).device
    for number in itertools.count():
        generator = _generator_of_batch(seed, number)
        inputs = [torch.rand(_image_shape(model, batch_size), generator=generator).to(device) * 2 - 1]
        if classes:
            inputs.append(torch.randint(classes, (batch_size,), generator=generator).to(device))
        yield functools.partial(_output, inputs=inputs)


def _generator_of_batch(seed: int, number: int) -> torch.Generator:
    """Of batch ``number``; not by core/seeding.py, because published figures depend on these batches."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def _generate(model: nn.Module, z: Tensor, labels: Tensor | None, noise_state: Tensor) -> Tensor:
    noise = torch.Generator()
    noise.set_state(noise_state)  # every time the same
    return model(z, labels, noise_mode="random", generator=noise, return_dict=False)[0]


def _map(model: Any, z: Tensor, labels: Tensor | None) -> Tensor:
    return model.mapping(z, labels)


def _output(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    return model(*inputs, return_dict=False)[0]
