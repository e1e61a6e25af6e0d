# SPDX-License-Identifier: Apache-2.0
"""Batch statistics of a BigGAN's generator, measured on its own samples after training."""

from __future__ import annotations

import torch

from ..core.modes import evaluating
from ..models.biggan_layers import StatisticsNorm


@torch.no_grad()
def set_standing_statistics_(generator, batches: int = 16, batch_size: int = 64, seed: int = 0) -> None:
    """Replace the stored statistics by their mean over batches of samples, in place; nothing else changes.

    Args:
        generator: ``BigGANGenerator``.
        batches: Forward passes.
        batch_size: Samples of each, with random classes; at least 2.
        seed: Of latents and classes.

    Raises:
        ValueError: No batch statistics, or no samples.

    Source:
        Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", appendix B (standing
        statistics).
    """
    norms = [module for module in generator.modules() if isinstance(module, StatisticsNorm)]
    if not norms or batches < 1 or batch_size < 2:
        raise ValueError(
            f"set_standing_statistics_: {len(norms)} norms with batch statistics, batches {batches}, batch_size "
            f"{batch_size}; allowed are 1 or more, 1 or more, 2 or more."
        )
    sums = [[torch.zeros_like(norm.stored_mean), torch.zeros_like(norm.stored_var)] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    random = torch.Generator().manual_seed(seed)
    device = norms[0].stored_mean.device
    with evaluating(generator):
        for norm in norms:
            norm.training, norm.momentum = True, 1.0  # the stored values become those of the batch
        try:
            for _ in range(batches):
                z = generator.draw_latents(batch_size, random).to(device)
                labels = torch.randint(generator.config.num_classes, (batch_size,), generator=random).to(device)
                generator(z, labels)
                for norm, (mean, variance) in zip(norms, sums):
                    mean += norm.stored_mean / batches
                    variance += norm.stored_var / batches
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
    for norm, (mean, variance) in zip(norms, sums):
        norm.stored_mean.copy_(mean)
        norm.stored_var.copy_(variance)
