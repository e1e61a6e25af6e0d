# SPDX-License-Identifier: Apache-2.0
"""A quantized weight whose codes, scales and levels can be trained."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..calibration import channels_first
from ..grid import QuantizedRows, nearest_codes, stored_scale
from ..rotation import unrotated


class LearnedWeight:
    """Positions v (R, N) of weights in units of their scale, log scales (R, 1) and levels, as leaves of an optimizer.

    Args:
        module: Layer with the full-precision weight.
        bits: 2 to 8.
        start: The weight as it is quantized to begin with.
    """

    def __init__(self, module: nn.Module, bits: int, start: QuantizedRows):
        self.module, self.bits, self.start = module, bits, start
        first = channels_first(module, module.weight.detach())
        self.shape = first.shape
        self.base_scale = start.scale.float()
        rows = start.target(first).reshape(len(start.scale), -1).float()
        rows = rows if start.offset is None else rows - start.offset.float()
        self.position = rows / self.base_scale
        self.codebook = None if start.codebook is None else start.codebook.float().clone()
        # Where the start did not round to the nearest level, the weight begins at the level that it chose.
        moved = self._codes(self.codebook) != start.codes
        level = dataclasses.replace(start, scale=torch.ones_like(start.scale), offset=None).values()
        self.position = torch.where(moved, level, self.position).requires_grad_(True)
        self.log_scale = torch.zeros_like(self.base_scale).requires_grad_(True)
        if self.codebook is not None:
            self.codebook.requires_grad_(True)

    @property
    def spacing(self) -> float:
        """Typical distance between neighbouring levels, in units of the scale."""
        if self.codebook is None:
            return 1.0
        return float(torch.diff(self.codebook.detach().sort().values).median())

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        found = {"position": self.position, "log_scale": self.log_scale, "codebook": self.codebook}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def weight(self) -> Tensor:
        """The weight to compute with, in the layout and dtype of the module."""
        position = self.position.detach()
        codes = self._codes(None if self.codebook is None else self.codebook.detach()).int()
        if self.codebook is None:
            levels = codes + self.start.level_offset
        else:
            levels = self.codebook[codes + 2 ** (self.bits - 1)]
        values = (levels + (self.position - position)) * (self.base_scale * self.log_scale.exp())
        if self.start.offset is not None:
            values = values + self.start.offset.float()
        values = values.reshape(self.shape[0], -1)
        if self.start.rotation:
            values = unrotated(values, self.start.rotation)
        if self.start.up is not None:
            values = values + self.start.up.float() @ self.start.down.float()
        return channels_first(self.module, values.view(self.shape)).to(self.module.weight.dtype)

    def quantized(self) -> QuantizedRows:
        """Codes and scales as they are stored."""
        scale = stored_scale((self.base_scale * self.log_scale.exp()).detach(), self.start.scale.dtype)
        codebook = None if self.codebook is None else self.codebook.detach().half()
        return dataclasses.replace(self.start, codes=self._codes(codebook), scale=scale, codebook=codebook)

    def _codes(self, codebook: Tensor | None) -> Tensor:
        one = torch.ones((), device=self.position.device)
        return nearest_codes(
            self.position.detach(), one, self.bits, level_offset=self.start.level_offset, codebook=codebook
        )
