# SPDX-License-Identifier: Apache-2.0
"""Diversity-aware pruning (DCP-GAN, Chung et al., CVPR 2024): how differently channels answer to style directions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..channels import ChannelSet
from .base import Scores, latents, reader_scores, reader_weights


_PIXELS_AT_ONCE = 2**15  # of moved images that share a pass: 32 images of 32 x 32; larger passes leave the cache


@dataclass(frozen=True)
class DCP:
    """Variance over directions of the mean absolute gradient of the image change, of the weight that reads the channel.

    Directions are principal components of styles, drawn with the share of variance that they explain.

    Args:
        samples: Latents in all, rounded down to whole batches, at least one: every batch is ``directions`` gradients
            of ``batch_size`` images. The papers take 5000, whose fourteen times longer estimate ranks channels alike
            (docs/pruning.md).
        batch_size: Latents that share directions.
        directions: Drawn for each batch, with replacement.
        strength: Length of a step in style space (alpha), not 0: 5 in DCP-GAN, 10 in the scripts of Singular Value
            Scaling.
        style_samples: Styles for the principal components.
        noise_mode: "random", as published, or "const" for less variance.
        stop_gradient: Keep the moved image constant, as in Singular Value Scaling; False: gradients through both
            images.
        seed: Of everything random.
        progress: Show a progress bar.

    Raises:
        ValueError: The model has no style space, or ``strength`` is 0.
    """

    samples: int = 350
    batch_size: int = 5
    directions: int = 10
    strength: float = 5.0
    style_samples: int = 10_000
    noise_mode: str = "random"
    stop_gradient: bool = True
    seed: int = 0
    progress: bool = field(default=True, metadata={"recorded": False})

    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        if not hasattr(model, "mapping"):
            raise ValueError(f"dcp needs a style space; {type(model).__name__} has none.")
        if not self.strength:
            raise ValueError(
                "dcp: strength is 0; allowed are other numbers: without a step in style space nothing differs."
            )
        generator = torch.Generator().manual_seed(self.seed)
        # channels_last spares every gradient its way back to the format of the weights, a seventh of the time on a CPU
        model = copy.deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        weights = [weight.requires_grad_() for weight in reader_weights(model, sets)]
        sums = [torch.zeros(channels.width) for channels in sets]
        batches = max(1, self.samples // self.batch_size)
        axes, share = self._axes(model, generator)
        for _ in tqdm(range(batches), "dcp", unit="batch", disable=not self.progress):
            for total, deviation in zip(sums, self._batch(model, weights, axes, share, generator)):
                total += deviation.cpu()
        return {channels.name: total / batches for channels, total in zip(sets, sums)}

    @torch.no_grad()
    def _axes(self, model: nn.Module, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Principal directions (D, D) of the styles, one a row, and the share of variance of each."""
        w = model.mapping(*latents(model, self.style_samples, generator))[:, 0].double()
        values, vectors = torch.linalg.eigh(torch.cov(w.T))
        values = values.clamp_min(0)
        return vectors.T.float(), (values / values.sum()).float()

    def _batch(self, model, weights, axes, share, generator) -> list[Tensor]:
        """Mean over directions of the squared deviation from the batch's mean score, for every set."""
        with torch.no_grad():
            ws = model.mapping(*latents(model, self.batch_size, generator))
        chosen = torch.multinomial(share.cpu(), self.directions, replacement=True, generator=generator)
        together = (
            max(1, _PIXELS_AT_ONCE // (self.batch_size * model.config.resolution**2)) if self.stop_gradient else 1
        )
        found: list[list[Tensor]] = []
        for part in chosen.split(together):
            noise = [(self._noise(model, generator), self._noise(model, generator)) for _ in part]
            with torch.set_grad_enabled(not self.stop_gradient):
                steps = torch.cat([ws + self.strength * axes[index] for index in part.tolist()])
                moved = self._images(model, steps, [torch.cat(each) for each in zip(*(first for first, _ in noise))])
            for image, (_, own) in zip(moved.split(self.batch_size), noise):
                found.append(reader_scores((image - self._images(model, ws, own)).abs().mean(), weights))
        scores = [torch.stack(per_set) for per_set in zip(*found)]
        return [(score - score.mean(dim=0)).square().mean(dim=0) for score in scores]

    def _noise(self, model: nn.Module, generator: torch.Generator) -> list[Tensor]:
        """Noise (batch_size, 1, H, W) of every layer with noise, in the order of one pass; none unless it is random."""
        sizes = [layer.noise_const.shape[-2:] for layer in _noisy(model)] if self.noise_mode == "random" else []
        return [randn_tensor((self.batch_size, 1, *size), generator=generator, device=model.device) for size in sizes]

    def _images(self, model: nn.Module, ws: Tensor, noise: list[Tensor]) -> Tensor:
        """Images of styles with given noise, which takes the place of what the model stores."""
        for layer, each in zip(_noisy(model), noise):
            layer.noise_const = each
        return model.synthesize(ws, noise_mode="const" if noise else self.noise_mode)


def _noisy(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if hasattr(layer, "noise_const")]
