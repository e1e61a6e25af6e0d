# SPDX-License-Identifier: Apache-2.0
"""Size of the styles (the StyleGAN form of GAN Slimming)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..channels import ChannelSet
from .base import Scores, latents


@dataclass(frozen=True)
class GANSlimming:
    """Mean absolute style of the layer that reads the channel; meant for a model that was trained with style sparsity.

    Args:
        samples: Latents.
        seed: Of the latents.

    Raises:
        ValueError: A layer without styles.

    Source:
        Wang et al., "GAN Slimming"; its StyleGAN ports, with scores kept by layer.
    """

    samples: int = 400
    seed: int = 0

    @torch.no_grad()
    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        readers = {channels.name: model.get_submodule(channels.reader) for channels in sets}
        if not hasattr(model, "mapping") or not all(hasattr(module, "affine") for module in readers.values()):
            raise ValueError(f"gan_slimming needs layers with styles; {type(model).__name__} has others.")
        generator = torch.Generator().manual_seed(self.seed)
        w = model.mapping(*latents(model, self.samples, generator))[:, 0]
        return {name: module.affine(w).float().abs().mean(dim=0) for name, module in readers.items()}
