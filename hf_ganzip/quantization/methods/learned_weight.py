# SPDX-License-Identifier: Apache-2.0
"""Quantized weights whose codes, scales and levels can be trained: one, and all of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration import CalibrationTask, channels_first, expanded
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


class Student:
    """What is trained, a learned weight per layer and tuned parameters; and the weights that stay as quantized."""

    def __init__(self, task: CalibrationTask, model: nn.Module, tune: str):
        self.layers = {
            name: LearnedWeight(model.get_submodule(name), task.settings[name].bits, task.start[name])
            for name in task.own
        }
        self.fixed = {
            f"{name}.weight": expanded(model.get_submodule(name), task.start[name])
            for name in task.settings
            if name not in self.layers
        }
        quantized = {f"{name}.weight" for name in task.settings}
        self.tuned = {
            name: parameter.detach().clone().requires_grad_(True)
            for name, parameter in model.named_parameters()
            if name not in quantized and (tune == "all" or (tune == "biases" and name.endswith(".bias")))
        }

    def parameter_groups(self, rate: float, slow_rate: float) -> list[dict[str, Any]]:
        """Groups of the optimizer: positions at ``rate`` times the distance between levels, all others at
        ``slow_rate``.
        """
        slow = [layer.log_scale for layer in self.layers.values()] + list(self.tuned.values())
        slow += [layer.codebook for layer in self.layers.values() if layer.codebook is not None]
        groups = [{"params": [layer.position], "lr": rate * layer.spacing} for layer in self.layers.values()]
        return [*groups, {"params": slow, "lr": slow_rate}]

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to compute with, by parameter name."""
        learned = {f"{name}.weight": layer.weight() for name, layer in self.layers.items()}
        return learned | self.fixed | self.tuned

    def state(self) -> dict[str, Tensor]:
        """Everything trained, by name."""
        found = {f"tuned:{name}": parameter for name, parameter in self.tuned.items()}
        for name, layer in self.layers.items():
            found |= {f"{part}:{name}": tensor for part, tensor in layer.tensors().items()}
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state`."""
        for name, parameter in self.tuned.items():
            parameter.copy_(state[f"tuned:{name}"])
        for name, layer in self.layers.items():
            for part, tensor in layer.tensors().items():
                tensor.copy_(state[f"{part}:{name}"])

    def result(self) -> tuple[dict[str, QuantizedRows], dict[str, Tensor]]:
        """Codes and scales, and tuned parameters."""
        tuned = {name: parameter.detach().clone() for name, parameter in self.tuned.items()}
        return {name: layer.quantized() for name, layer in self.layers.items()}, tuned
