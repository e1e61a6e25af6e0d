# SPDX-License-Identifier: Apache-2.0
"""The average of a network's weights over a training: what the loops return and the scripts save."""

from __future__ import annotations

import copy
import logging
import math

import torch
from torch import nn


logger = logging.getLogger(__name__)

RAMPUP = 0.05  # of StyleGAN2-ADA
_MUCH_OF_START = 0.1  # of the average, at the end


class WeightAverage:
    """Exponential moving average: at step n, a <- d_n a + (1 - d_n) w_n with d_n = 0.5^(images per step / half-life).

    The half-life is at most ``rampup`` times the images seen, so that the average of a short run is not its starting
    point.

    Args:
        network: Copied; the average starts from it.
        images_per_step: Of all processes.
        half_life: In images; 0: the average is the network.
        rampup: 0: the half-life is the same from the first step.
        buffers: Average them, too, instead of copying.

    Source:
        StyleGAN2-ADA (Karras et al.), option ``ema_rampup`` of the published code.
    """

    def __init__(
        self, network: nn.Module, images_per_step: int, half_life: float, rampup: float = RAMPUP, buffers: bool = False
    ):
        self.model = copy.deepcopy(network).eval().requires_grad_(False)
        self.images_per_step, self.half_life, self.rampup, self.buffers = images_per_step, half_life, rampup, buffers

    def decay(self, step: int) -> float:
        """d_n of step n >= 1."""
        half_life = self.half_life
        if self.rampup:
            half_life = min(half_life, step * self.images_per_step * self.rampup)
        return 0.5 ** (self.images_per_step / max(half_life, 1e-8))

    def update_(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step n >= 1."""
        update_ema_(self.model, network, self.decay(step), self.buffers)

    def share_of_start(self, steps: int) -> float:
        """Weight of the starting point in the average after ``steps``: the product of all decays, in [0, 1]."""
        return math.prod(map(self.decay, range(1, steps + 1)))

    def warn_of_start(self, steps: int) -> None:
        """Log a warning if after ``steps`` more than a tenth of the average is still the starting point."""
        share = self.share_of_start(steps)
        if share > _MUCH_OF_START:
            logger.warning(
                "the average of the weights, which is what is saved, will be %.0f %% starting point after the %d "
                "images of this run: its half-life is %.0f images; train longer, set ema_rampup to %s, or shorten the "
                "half-life",
                100 * share,
                steps * self.images_per_step,
                self.half_life,
                RAMPUP,
            )


def half_life_of(decay: float, images_per_step: int) -> float:
    """Half-life in images of an average that keeps the share ``decay`` of itself, 0 <= decay < 1, in every step."""
    return images_per_step * math.log(0.5) / math.log(decay) if decay else 0.0


@torch.no_grad()
def update_ema_(average: nn.Module, model: nn.Module, decay: float, buffers: bool = False) -> None:
    """Move the parameters of ``average`` towards ``model``: a <- decay * a + (1 - decay) * m.

    Buffers are copied, or with ``buffers=True`` averaged in the same way.
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for target, source in zip(average.buffers(), model.buffers()):
        if buffers and target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)
