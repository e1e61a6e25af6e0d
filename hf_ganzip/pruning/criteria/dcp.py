# SPDX-License-Identifier: Apache-2.0
"""Diversity-aware pruning (DCP-GAN, Chung et al., CVPR 2024): how differently a channel answers to directions in style space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...modes import evaluating
from ..channels import ChannelSet
from .base import Scores, latents, reader_scores, reader_weights


@dataclass(frozen=True)
class DCP:
    """Variance over directions of the mean absolute gradient of the image change, of the weight that reads the channel.

    Directions are principal components of styles, drawn with the share of variance that they explain.

    Args:
        samples: Latents in all, rounded down to whole batches, at least one: every batch is ``directions`` gradients of ``batch_size`` images. The
            papers take 5000, whose ten times longer estimate ranks channels alike (docs/pruning.md).
        batch_size: Latents that share directions.
        directions: Drawn for each batch, with replacement.
        strength: Length of a step in style space (alpha): 5 in DCP-GAN, 10 in the scripts of Singular Value Scaling.
        style_samples: Styles for the principal components.
        noise_mode: "random", as published, or "const" for less variance.
        stop_gradient: Keep the moved image constant, as in Singular Value Scaling; False: gradients through both images.
        seed: Of everything random.
        progress: Show a progress bar.

    Raises:
        ValueError: The model has no style space.
    """

    samples: int = 500
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
        generator = torch.Generator().manual_seed(self.seed)
        required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        weights = reader_weights(model, sets)
        sums = [torch.zeros(channels.width) for channels in sets]
        batches = max(1, self.samples // self.batch_size)
        try:
            model.requires_grad_(False)
            for weight in weights:
                weight.requires_grad_(True)
            with evaluating(model):
                axes, share = self._axes(model, generator)
                for _ in tqdm(range(batches), "dcp", unit="batch", disable=not self.progress):
                    for total, deviation in zip(sums, self._batch(model, weights, axes, share, generator)):
                        total += deviation.cpu()
        finally:
            for parameter, value in required.items():
                parameter.requires_grad_(value)
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
        found: list[list[Tensor]] = []
        for index in chosen.tolist():
            moved = model.synthesize(ws + self.strength * axes[index], noise_mode=self.noise_mode, generator=generator)
            if self.stop_gradient:  # after the fact, so that the same operations made both images
                moved = moved.detach()
            image = model.synthesize(ws, noise_mode=self.noise_mode, generator=generator)
            found.append(reader_scores((moved - image).abs().mean(), weights))
        scores = [torch.stack(per_set) for per_set in zip(*found)]
        return [(score - score.mean(dim=0)).square().mean(dim=0) for score in scores]
