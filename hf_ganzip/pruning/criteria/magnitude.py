# SPDX-License-Identifier: Apache-2.0
"""Size of the weights that read a channel (l1-out of the CAGAN paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..channels import ChannelSet
from .base import Scores, latents, per_channel


@dataclass(frozen=True)
class Magnitude:
    """L1 norm over outputs and taps of the weight that reads the channel; for diffusion UNets, the mean over all
    weights that read or write it of the sum of squares.

    Args:
        modulated: For StyleGANs, of the modulated and demodulated weight, averaged over styles first; False: of the
            stored weight.
        samples: Latents of the average.
        seed: Of the latents.

    Source:
        Liu et al., "Content-Aware GAN Compression", baseline l1-out; Fang et al., "Structural Pruning for Diffusion
        Models", baseline.
    """

    modulated: bool = True
    samples: int = 400
    seed: int = 0

    @torch.no_grad()
    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        w = None
        if self.modulated and hasattr(model, "mapping"):
            generator = torch.Generator().manual_seed(self.seed)
            w = model.get_submodule("mapping")(*latents(model, self.samples, generator))[:, 0]
        found = {}
        state = model.state_dict()
        for channels in sets:
            if not channels.reader:
                parts = [part for part in channels.slices if state[part.tensor].ndim >= 2]
                sums = [per_channel(state[part.tensor].double().square(), part, channels) for part in parts]
                found[channels.name] = torch.stack(sums).mean(dim=0).float()
                continue
            module: Any = model.get_submodule(channels.reader)
            weight = module.weight.double().flatten(2)
            if w is not None and hasattr(module, "affine"):
                styles = module.affine(w).double()  # (n, C)
                scale = styles.new_ones(len(styles), len(weight))
                if type(module).__name__ != "ToRGBLayer" and not getattr(module, "is_image", False):
                    scale = (styles.square() @ weight.square().sum(dim=2).T + 1e-8).rsqrt()  # (n, O)
                weight = weight * (scale.T @ styles / len(styles))[:, :, None]
            found[channels.name] = weight.abs().sum(dim=(0, 2)).float()
        return found
