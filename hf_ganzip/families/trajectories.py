# SPDX-License-Identifier: Apache-2.0
"""Calibration inputs of diffusion models, without data: states of a model's own trajectories from noise to image."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.seeding import derive_seed
from .passes import Pass


if TYPE_CHECKING:
    from diffusers import ModelMixin


_STEPS = 20
_SHIFT = 3.0  # of the sigmas of flows, as Stable Diffusion 3 has it
_DRAWN = {  # conditions that are drawn anew; others (sizes, positions, guidance) stay as in the example inputs
    "class_labels",
    "encoder_hidden_states",
    "encoder_hidden_states_image",
    "hint",
    "image_embeds",
    "pooled_projections",
    "text_embeds",
}
_UNBATCHED = {"img_ids", "txt_ids"}
_Step = Callable[[int, Tensor, Tensor], Tensor]  # (number, prediction, state) -> next state


def noise_trajectories(model: ModelMixin, batch_size: int, seed: int, *, mixed: bool = False) -> Iterator[Pass]:
    """Predictions (B, ...) on the states of the model's own 20-step DDIM trajectories, each batch at one timestep or,
    ``mixed``, each sample at its own.

    The trajectories start from N(0, I), with random classes, or N(0, I) in place of encoded texts, and are run by
    ``model`` as it is now, once for every 20 batches. Trajectory i depends on (seed, i). The model is taken to predict
    the noise, on diffusers' default schedule of 1,000 linear steps. Of predictions with more channels than the state
    (learned variances) the first are the noise; channels that are not predicted (masks, depths, low resolutions) stay
    as they were drawn.
    """
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(_STEPS)

    def step(number: int, noise: Tensor, state: Tensor) -> Tensor:
        return scheduler.step(noise, scheduler.timesteps[number], state).prev_sample

    return _passes(model, batch_size, seed, scheduler.timesteps, step, mixed)


def flow_trajectories(
    model: ModelMixin, batch_size: int, seed: int, *, time_scale: float = 1000.0, mixed: bool = False
) -> Iterator[Pass]:
    """Velocities (B, ...) on the states of the model's own flow from N(0, I) to images, in 20 Euler steps; else
    :func:`noise_trajectories`.

    Sigmas fall from 1 with shift 3; the model is given sigma times ``time_scale`` as its timestep and predicts noise
    minus image.
    """
    even = torch.linspace(1, 0, _STEPS + 1)
    sigmas = _SHIFT * even / (1 + (_SHIFT - 1) * even)

    def step(number: int, velocity: Tensor, state: Tensor) -> Tensor:
        return state + float(sigmas[number + 1] - sigmas[number]) * velocity

    return _passes(model, batch_size, seed, sigmas[:-1] * time_scale, step, mixed)


def _passes(
    model: ModelMixin, batch_size: int, seed: int, timesteps: Tensor, step: _Step, mixed: bool
) -> Iterator[Pass]:
    from . import example_inputs

    (example, *_), examples = example_inputs(model)
    for trajectory in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(seed, trajectory))
        state = torch.randn(batch_size, *example.shape[1:], generator=generator).to(example.device)
        kwargs = _conditions(model, examples, batch_size, generator)
        states = []
        with torch.no_grad():
            for number, timestep in enumerate(timesteps):
                states.append((state.to(example.dtype), timestep.expand(batch_size).to(example.device)))
                state = _advance(step, number, _predict(model, *states[-1], kwargs), state)  # in float32
        if mixed:
            orders = [torch.randperm(len(states), generator=generator).tolist() for _ in range(batch_size)]
            states = [_of_each(states, order) for order in zip(*orders)]
        else:
            states = [states[index] for index in torch.randperm(len(states), generator=generator).tolist()]
        for state, timestep in states:
            yield functools.partial(_predict, state=state, timestep=timestep, kwargs=kwargs)


def _of_each(states: list[tuple[Tensor, Tensor]], order: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """State and timestep number ``order[i]`` of sample i."""
    state, timestep = (torch.stack([states[at][part][i] for i, at in enumerate(order)]) for part in (0, 1))
    return state, timestep


def _advance(step: _Step, number: int, prediction: Tensor, state: Tensor) -> Tensor:
    """The next state: what is predicted moves, further channels stay."""
    channels = 2 if state.ndim == 3 else 1  # tokens (B, N, C), images (B, C, H, W), videos (B, C, T, H, W)
    count, total = min(prediction.shape[channels], state.shape[channels]), state.shape[channels]
    moved = step(number, prediction.narrow(channels, 0, count).to(state.dtype), state.narrow(channels, 0, count))
    return torch.cat([moved, state.narrow(channels, count, total - count)], channels)


def _conditions(
    model: ModelMixin, examples: Mapping[str, Any], batch_size: int, generator: torch.Generator
) -> dict[str, Any]:
    """Class ids and N(0, I) in the shapes, dtypes and places of example inputs (2, ...)."""
    found: dict[str, Any] = {}
    for name, value in examples.items():
        if name == "timestep":
            continue
        if isinstance(value, Mapping):
            found[name] = _conditions(model, value, batch_size, generator)
        elif value is None or name in _UNBATCHED:
            found[name] = value
        elif name not in _DRAWN:
            found[name] = value[:1].expand(batch_size, *value.shape[1:])
        else:
            shape = (batch_size * len(value) // 2, *value.shape[1:])
            if value.is_floating_point():
                drawn = torch.randn(shape, generator=generator)
            else:
                drawn = torch.randint(class_count(model), shape, generator=generator)
            found[name] = drawn.to(value.device, value.dtype)
    return found


def class_count(model: ModelMixin) -> int:
    """Number of classes of a class-conditional model (of one whose classes are timesteps: 1,000); 0 without."""
    if model.config.get("class_embed_type") == "timestep":
        return 1000
    return model.config.get("num_class_embeds") or model.config.get("num_embeds_ada_norm") or 0


def _predict(model: ModelMixin, state: Tensor, timestep: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return model(state, timestep=timestep, return_dict=False, **kwargs)[0]
