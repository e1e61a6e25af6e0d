# SPDX-License-Identifier: Apache-2.0
"""How many channels of every set stay, and which."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .channels import ChannelSet, PruningRule, shapes_after
from .config import PruneConfig
from .macs import macs_of_shapes


def kept_counts(
    model: nn.Module, rule: PruningRule, sets: list[ChannelSet], config: PruneConfig, uses: Mapping[str, int]
) -> dict[str, int]:
    """Number of channels of every set that stay.

    Raises:
        ValueError: A pattern that matches no set, a set that would be emptied, or a limit that cannot be reached.
    """
    names = [channels.name for channels in sets]
    unmatched = [pattern for pattern in config.ratios if not fnmatch.filter(names, pattern)]
    if unmatched:
        raise ValueError(
            f"prune_: {', '.join(map(repr, unmatched))} match no channels; there are {', '.join(names[:6])} ..."
        )

    limit = config.max_macs if config.max_params is None else config.max_params

    def counts(ratio: float) -> dict[str, int]:
        found = {}
        for channels in sets:
            own = next(
                (r for pattern, r in config.ratios.items() if fnmatch.fnmatchcase(channels.name, pattern)), ratio
            )
            found[channels.name] = kept_count(channels, rule, own, config)
            if limit is not None:
                found[channels.name] = max(found[channels.name], math.prod(_blocks(channels, config)))
            if found[channels.name] < 1:
                raise ValueError(f"prune_: ratio {own} leaves no channel of {channels.name} ({channels.width}).")
        return found

    if limit is None:
        return counts(config.ratio)
    option = "max_macs" if config.max_params is None else "max_params"
    state, parameters = model.state_dict(), dict(model.named_parameters())

    def size(ratio: float) -> int:
        shapes = shapes_after(state, sets, counts(ratio))
        if option == "max_macs":
            return macs_of_shapes(uses, shapes)
        return sum(math.prod(shapes[name]) for name in parameters)

    low, high = 0.0, 1 - 1 / max(channels.width for channels in sets)
    if size(high) > limit:
        raise ValueError(f"prune_: {option} {limit:,} cannot be reached; the least are {size(high):,}.")
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if size(middle) <= limit else (middle, high)
    return counts(0.0 if size(0.0) <= limit else high)


def _blocks(channels: ChannelSet, config: PruneConfig) -> tuple[int, int]:
    """Number of blocks that lose equally many channels, and how many channels of a block go together."""
    if channels.norm and config.group_rule in ("exact", "whole_groups"):
        whole = config.group_rule == "whole_groups" and channels.blocks > 1
        return 1, channels.width // channels.blocks if whole else 1
    return channels.blocks, 1


def kept_count(channels: ChannelSet, rule: PruningRule, ratio: float, config: PruneConfig) -> int:
    """Number of channels of a set that stay."""
    (blocks, together), width = _blocks(channels, config), channels.width
    if channels.norm and config.group_rule == "same_positions":
        each = int((width // blocks) * (1 - ratio)) or width // blocks  # groups that would be emptied stay whole
    else:
        each = width // blocks - (width - rule.keep(width, ratio)) // (blocks * together) * together
    step = math.lcm(config.multiple_of // math.gcd(config.multiple_of, blocks), together)
    return blocks * min(width // blocks, -(-each // step) * step)


def kept_channels(
    criterion: Any, model: nn.Module, sets: list[ChannelSet], counts: Mapping[str, int], config: PruneConfig
) -> dict[str, Tensor]:
    """Indices of the best channels of every set, ascending; of equal ones the later.

    Raises:
        ValueError: Scores of another shape, or that are not finite.
    """
    with torch.enable_grad():
        scores = criterion(model, sets)
    kept = {}
    for channels in sets:
        score = scores.get(channels.name)
        if score is None or score.shape != (channels.width,):
            raise ValueError(f"prune_: the criterion gives no ({channels.width},) scores for {channels.name}.")
        if not torch.isfinite(score).all():
            raise ValueError(f"prune_: the scores of {channels.name} are not finite; nothing was changed.")
        blocks, together = _blocks(channels, config)
        score = score.detach().cpu().reshape(-1, together).mean(dim=1).repeat_interleave(together)
        parts = score.reshape(blocks, -1)
        if channels.norm and config.group_rule == "same_positions":
            parts = parts.mean(dim=0, keepdim=True).expand(blocks, -1)
        order = parts.argsort(dim=1, stable=True)[:, parts.shape[1] - counts[channels.name] // blocks :]
        starts = torch.arange(blocks)[:, None] * parts.shape[1]
        kept[channels.name] = (order + starts).flatten().sort().values
    return kept
