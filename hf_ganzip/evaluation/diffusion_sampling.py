# SPDX-License-Identifier: Apache-2.0
"""Images of diffusion UNets by DDIM, with the timesteps of the papers' scripts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from tqdm.auto import tqdm

from ..core.modes import evaluating
from ..core.seeding import sample_generators
from ..images import to_uint8
from ..quantization.packed import computing


SPACINGS = ("quad", "uniform")


def ddim_timesteps(steps: int, spacing: str, timesteps: int = 1000) -> list[int]:
    """Timesteps of a sampler, ascending, as published.

    "quad" keeps equal neighbours. "uniform" takes every ``timesteps // steps``-th timestep, which are more than
    ``steps`` unless ``steps`` divides ``timesteps``: of 1,000, ``steps=30`` takes 31, 64 takes 67, 600 takes 1,000.

    Raises:
        ValueError: An unknown spacing, or more steps than timesteps.

    Example:
        >>> ddim_timesteps(100, "quad")[:9], ddim_timesteps(100, "quad")[-1], ddim_timesteps(4, "uniform")
        ([0, 0, 0, 0, 1, 2, 2, 3, 5], 800, [0, 250, 500, 750])
        >>> [len(ddim_timesteps(steps, "uniform")) for steps in (30, 50, 64, 600)]
        [31, 50, 67, 1000]

    Source:
        Denoising diffusion implicit models, appendix D.2: quadratic spacing for CIFAR-10, linear for others.
    """
    if spacing not in SPACINGS or not 1 <= steps <= timesteps:
        raise ValueError(
            f"spacing is {spacing!r}, steps {steps}; allowed are {', '.join(SPACINGS)} and 1 to {timesteps}."
        )
    if spacing == "uniform":
        return list(range(0, timesteps, timesteps // steps))
    end = math.sqrt(0.8 * timesteps)
    return [int((end * i / max(steps - 1, 1)) ** 2) for i in range(steps - 1)] + [int(0.8 * timesteps)]


@torch.no_grad()
def sample_diffusion(
    model: UNet2DModel,
    num_samples: int,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 100,
    steps: int = 50,
    spacing: str = "uniform",
    timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    clip_sample: bool = False,
    class_label: int | None = None,
    compute: str | None = "dequantized",
    progress: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sample by deterministic DDIM (eta 0). Image i depends on the model and ``(seed, i)`` only.

    Args:
        model: Network that predicts noise.
        num_samples: Number of images.
        seed: Image i starts from the noise of ``(seed, i)``; the same noise for every model.
        first: Index of the first image.
        batch_size: Images per forward pass.
        steps: 100 in the papers; see :func:`ddim_timesteps` for how many are taken.
        spacing: "quad" (CIFAR-10) or "uniform".
        timesteps: Of the linear noise schedule.
        beta_start: First of the schedule.
        beta_end: Last of the schedule.
        clip_sample: Clip the predicted image to [-1, 1] in every step, and take the noise that follows from it; the
            papers' scripts do not. Networks that are small or not finished need it: at the first timesteps an error of
            the noise is magnified more than a hundred times.
        class_label: One class for all images; None: image i has class ``i % num_class_embeds``.
        compute: How packed layers compute meanwhile, as for :func:`.set_compute_`; None: as they do.
        progress: Show a progress bar.

    Returns:
        Images (num_samples, C, H, W) uint8 and labels (num_samples,), None for models without classes.

    Raises:
        ValueError: ``num_samples`` < 1, no such class, or options of :func:`ddim_timesteps`.
    """
    chosen = ddim_timesteps(steps, spacing, timesteps)
    signal = torch.cumprod(1 - torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64), dim=0).tolist()
    labels = labels_of(model.config.get("num_class_embeds"), num_samples, first, class_label)
    size, device = model.config.sample_size, model.device
    shape = (1, model.config.in_channels, size, size)

    def draw(start: int, count: int) -> Tensor:
        sources = sample_generators(seed, count, first + start)
        state = torch.cat([torch.randn(shape, generator=each) for each in sources]).to(device, model.dtype)
        kwargs = {} if labels is None else {"class_labels": labels[start : start + count].to(device)}
        for now, before in zip(reversed(chosen), [*reversed(chosen[:-1]), -1]):
            noise = model(state, now, return_dict=False, **kwargs)[0]
            state = _ddim_step(state, noise, signal[now], signal[before] if before >= 0 else 1.0, clip_sample)
        return state

    with computing(model, compute):
        return in_batches(model, num_samples, batch_size, draw, progress), labels


def in_batches(
    model: Any, num_samples: int, batch_size: int, draw: Callable[[int, int], Tensor], progress: bool
) -> Tensor:
    """Images uint8 (num_samples, C, H, W) on the CPU of a model in evaluation mode; ``draw`` gets the number of the
    first image of a batch and how many it has, and gives them in [-1, 1].
    """
    images = []
    bar = tqdm(total=num_samples, desc="sample", unit="image", disable=not progress)
    with evaluating(model), bar:
        for start in range(0, num_samples, batch_size):
            count = min(batch_size, num_samples - start)
            images.append(to_uint8(draw(start, count)).cpu())
            bar.update(count)
    return torch.cat(images)


def _ddim_step(state: Tensor, noise: Tensor, signal: float, signal_after: float, clip: bool) -> Tensor:
    """The next state, from the predicted noise and the share of the signal in the variance of both states."""
    image = (state - math.sqrt(1 - signal) * noise) / math.sqrt(signal)
    if clip:
        image = image.clamp(-1, 1)
        noise = (state - math.sqrt(signal) * image) / math.sqrt(1 - signal)
    return math.sqrt(signal_after) * image + math.sqrt(1 - signal_after) * noise


def labels_of(classes: int | None, count: int, first: int = 0, class_label: int | None = None) -> Tensor | None:
    """Class ids (count,) int64 of images from ``first`` on: one class, or all in turn; None without classes.

    Raises:
        ValueError: ``count`` < 1, or there is no such class.
    """
    if count < 1:
        raise ValueError(f"num_samples is {count}; allowed are 1 and more.")
    if class_label is not None and not 0 <= class_label < (classes or 0):
        raise ValueError(f"class_label is {class_label}; the model has {classes or 0} classes.")
    if not classes:
        return None
    return torch.arange(first, first + count) % classes if class_label is None else torch.full((count,), class_label)
