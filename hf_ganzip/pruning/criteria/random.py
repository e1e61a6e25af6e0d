# SPDX-License-Identifier: Apache-2.0
"""Chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..channels import ChannelSet
from .base import Scores


@dataclass(frozen=True)
class Random:
    """Uniform scores.

    Args:
        seed: Of the scores.
    """

    seed: int = 0

    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        generator = torch.Generator().manual_seed(self.seed)
        return {channels.name: torch.rand(channels.width, generator=generator) for channels in sets}
