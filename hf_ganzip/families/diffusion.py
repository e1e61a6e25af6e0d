# SPDX-License-Identifier: Apache-2.0
"""Defaults of diffusion models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


_TRAJECTORY_STEPS = 20


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


def trajectory_calibration(model: nn.Module, batch_size: int, seed: int) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Predictions (B, C, H, W) on the states of the model's own 20-step DDIM trajectories, each batch at one timestep.

    The trajectories start from N(0, I) and are run by ``model`` as it is now, once for every 20 batches.
    """
    from diffusers import DDIMScheduler

    (example, _), kwargs = unet_inputs(model)
    device = next(model.parameters()).device
    number = 0
    while True:
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(_TRAJECTORY_STEPS)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        state = torch.randn(batch_size, *example.shape[1:], generator=generator).to(device)
        kwargs = {name: value[:1].expand(batch_size, *value.shape[1:]) for name, value in kwargs.items()}
        states = []
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                states.append((state, timestep))
                noise = model(state, timestep, return_dict=False, **kwargs)[0]
                state = scheduler.step(noise[:, : state.shape[1]], timestep, state).prev_sample
        for index in torch.randperm(len(states), generator=generator).tolist():
            state, timestep = states[index]
            yield functools.partial(_predict, state=state, timestep=timestep, kwargs=kwargs)
        number += 1


def _predict(model: nn.Module, state: Tensor, timestep: Tensor, kwargs: dict) -> Tensor:
    return model(state, timestep, return_dict=False, **kwargs)[0]
