# SPDX-License-Identifier: Apache-2.0
"""What criteria share: gradients of an image loss with respect to the weights that read the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..channels import ChannelSet, Slice


Scores = dict[str, Tensor]  # set name -> (C,), higher: keep


def reader_weights(model: nn.Module, sets: Sequence[ChannelSet]) -> list[Tensor]:
    """The weight that reads each set."""
    readers: list[Any] = [model.get_submodule(channels.reader) for channels in sets]
    return [module.weight for module in readers]


def reader_scores(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Mean absolute gradient of ``loss`` over output channels and kernel taps, (C,) for each weight (O, C, ...)."""
    found = []
    for gradient in torch.autograd.grad(loss, weights):
        found.append(gradient.abs().flatten(2).mean(dim=(0, 2)) if gradient.ndim > 2 else gradient.abs().mean(dim=0))
    return found


def per_channel(values: Tensor, part: Slice, channels: ChannelSet) -> Tensor:
    """Sum of a tensor's values over everything that a channel owns in it, (C,)."""
    rows = part.rows(torch.arange(channels.width))
    sums = values.movedim(part.axis, 0).flatten(1).sum(dim=1) if values.ndim > 1 else values
    return sums[rows.to(sums.device)].reshape(channels.width, part.repeat).sum(dim=1)


def latents(model: Any, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Latents (count, z_dim) and, where the model has classes, random labels (count,), on the device of the model."""
    device = next(model.parameters()).device
    z = model.draw_latents(count, generator).to(device)
    classes = model.config.num_classes
    return z, torch.randint(classes, (count,), generator=generator).to(device) if classes else None
