# SPDX-License-Identifier: Apache-2.0
"""Channel sets: which slices of which tensors belong to the same channels; how they are cut out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slice:
    """What the channels of a set own of a tensor along ``axis``: ``repeat`` entries each, the first at ``offset``."""

    tensor: str
    axis: int
    repeat: int = 1
    offset: int = 0

    def rows(self, channels: Tensor) -> Tensor:
        """Positions along the axis that belong to these channels, in their order."""
        return (self.offset + channels[:, None] * self.repeat + torch.arange(self.repeat)).flatten()


@dataclass(frozen=True)
class ChannelSet:
    """Channels that are kept or removed together.

    Args:
        name: Name of the set.
        width: Number of channels.
        slices: Everything that has one entry per channel.
        reader: Module whose weight reads these channels along its second axis; criteria judge a channel by it. ""
            where many do.
        blocks: Contiguous blocks of equal width that lose equally many channels: groups of a group norm, heads of an
            attention.
        norm: The blocks are groups of a group norm.
    """

    name: str
    width: int
    slices: tuple[Slice, ...]
    reader: str = ""
    blocks: int = 1
    norm: bool = False


@dataclass(frozen=True)
class PruningRule:
    """How a family is pruned.

    Args:
        sets: Model -> channel sets, in the order of the data.
        config: (model, kept count by set) -> changed options of the model's class; None: its options cannot express
            widths, so that they are saved as a :mod:`hf_ganzip.integration.structure`.
        keep: (width, ratio) -> number of channels that stay.
        part: Name of the child that is exchanged, "" for all children.
        rename: (model, new config) -> new name of every state-dict key that changes.
    """

    sets: Callable[[nn.Module], list[ChannelSet]]
    config: Callable[[nn.Module, Mapping[str, int]], dict[str, Any]] | None
    keep: Callable[[int, float], int]
    part: str = ""
    rename: Callable[[nn.Module, nn.Module], dict[str, str]] = lambda old, new: {}


def keep_after_removing(width: int, ratio: float) -> int:
    """C - int(C p): the rule of the StyleGAN2 papers."""
    return width - int(width * ratio)


def keep_rounded_down(width: int, ratio: float) -> int:
    """int(C (1 - p)): the rule of Diff-Pruning."""
    return int(width * (1 - ratio))


def keep_at_least_three(width: int, ratio: float) -> int:
    """int(C (1 - p)), at least 3: the rule of the StyleGAN3 scripts."""
    return max(3, int(width * (1 - ratio)))


def cut(state: Mapping[str, Tensor], sets: list[ChannelSet], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the kept channels (indices, ascending) of every set only."""
    stay: dict[tuple[str, int], Tensor] = {}
    for channels in sets:
        for part in channels.slices:
            mask = stay.setdefault(
                (part.tensor, part.axis), torch.ones(state[part.tensor].shape[part.axis], dtype=torch.bool)
            )
            mask[part.rows(torch.arange(channels.width))] = False
            mask[part.rows(kept[channels.name])] = True
    found = dict(state)
    for (name, axis), mask in stay.items():
        index = mask.nonzero().flatten()
        if len(index) < len(mask):
            found[name] = found[name].index_select(axis, index.to(found[name].device))
    return found


def shapes_after(
    state: Mapping[str, Tensor], sets: list[ChannelSet], counts: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of :func:`cut` for so many kept channels."""
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    for channels in sets:
        for part in channels.slices:
            found[part.tensor][part.axis] -= (channels.width - counts[channels.name]) * part.repeat
    return {name: tuple(shape) for name, shape in found.items()}
