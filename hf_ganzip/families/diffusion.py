# SPDX-License-Identifier: Apache-2.0
"""Defaults of diffusion models."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..seeding import derive_seed


_TRAJECTORY_STEPS = 20


def unet_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last residual block of the last up block, and the output convolution."""
    block = len(model.up_blocks) - 1
    resnet = len(model.up_blocks[block].resnets) - 1
    return (f"up_blocks.{block}.resnets.{resnet}.*", "conv_out.*")


def conditional_unet_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two noisy images (2, C, H, W) at timestep 10, and N(0, I) in place of an encoded text (2, 8, D)."""
    args, kwargs = unet_inputs(model)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 8, model.config.cross_attention_dim, generator=generator)
    return args, kwargs | {"encoder_hidden_states": text}


def transformer_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last transformer block, and the output projections."""
    return (f"transformer_blocks.{len(model.transformer_blocks) - 1}.*", "proj_out*")


def class_conditional_transformer_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two noisy latents (2, C, H, W) at timestep 10 with classes 0 and 1."""
    size = model.config.sample_size
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, model.config.in_channels, size, size, generator=generator)
    return (latents,), {"timestep": torch.tensor([10, 10]), "class_labels": torch.tensor([0, 1])}


def autoencoder_last_block(model: nn.Module) -> tuple[str, ...]:
    """The last residual block of the decoder, and its output convolution."""
    block = len(model.decoder.up_blocks) - 1
    resnet = len(model.decoder.up_blocks[block].resnets) - 1
    return (f"decoder.up_blocks.{block}.resnets.{resnet}.*", "decoder.conv_out.*")


def autoencoder_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two uniform noise images (2, C, S, S) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    return (torch.rand(shape, generator=generator) * 2 - 1,), {}


def unet_inputs(model: nn.Module) -> tuple[tuple, dict]:
    """Two noisy images (2, C, H, W) at timestep 10, classes 0 and 1 where needed."""
    size = model.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    classes = model.config.get("num_class_embeds")
    kwargs = {"class_labels": torch.arange(2) % classes} if classes else {}
    return (torch.randn(2, model.config.in_channels, height, width, generator=generator), 10), kwargs


def trajectory_calibration(model: nn.Module, batch_size: int, seed: int) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Predictions (B, C, H, W) on the states of the model's own 20-step DDIM trajectories, each batch at one timestep.

    The trajectories start from N(0, I), with random classes, or N(0, I) in place of encoded texts, and are run by ``model`` as it
    is now, once for every 20 batches. Trajectory i depends on (seed, i). The model is taken to predict the noise, on diffusers'
    default schedule of 1,000 linear steps.
    """
    from diffusers import DDIMScheduler

    from . import example_inputs

    (example, _), examples = example_inputs(model)
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(_TRAJECTORY_STEPS)
    for number in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
        state = torch.randn(batch_size, *example.shape[1:], generator=generator).to(example.device)
        kwargs = _random_conditions(model, examples, batch_size, generator)
        states = []
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                states.append((state.to(example.dtype), timestep))
                noise = _predict(model, *states[-1], kwargs)[:, : state.shape[1]]
                state = scheduler.step(noise.to(state.dtype), timestep, state).prev_sample  # in float32
        for index in torch.randperm(len(states), generator=generator).tolist():
            state, timestep = states[index]
            yield functools.partial(_predict, state=state, timestep=timestep, kwargs=kwargs)


def _random_conditions(
    model: nn.Module, examples: Mapping[str, Tensor], batch_size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Class ids and N(0, I) in the shapes, dtypes and places of example inputs (2, ...)."""
    found = {}
    for name, value in examples.items():
        shape = (batch_size, *value.shape[1:])
        if value.is_floating_point():
            drawn = torch.randn(shape, generator=generator)
        else:
            drawn = torch.randint(model.config.num_class_embeds, shape, generator=generator)
        found[name] = drawn.to(value.device, value.dtype)
    return found


def _predict(model: nn.Module, state: Tensor, timestep: Tensor, kwargs: dict[str, Tensor]) -> Tensor:
    return model(state, timestep, return_dict=False, **kwargs)[0]
