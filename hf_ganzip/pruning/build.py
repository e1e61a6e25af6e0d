# SPDX-License-Identifier: Apache-2.0
"""Build the pruned model beside the old one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..families import family_of
from ..integration.structure import set_tensor_, update_attributes_
from .channels import ChannelSet, PruningRule, cut
from .config import PruneConfig


def build(
    model: nn.Module, rule: PruningRule, sets: list[ChannelSet], kept: Mapping[str, Tensor], config: PruneConfig
) -> nn.Module:
    """A new model with the kept channels (indices, ascending) of every set; torch's random state stays as it is.

    Raises:
        ValueError: The model has no mapping network to inherit, or the rule does not fit it.
    """
    if config.inherit == "mapping" and not hasattr(model, "mapping"):
        raise ValueError(f"prune_: inherit='mapping' needs a mapping network; {type(model).__name__} has none.")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        if rule.config is None:
            return _build_structure(model, sets, kept, config)
        return _build_class(model, rule, sets, kept, config)


def _build_class(
    model: Any, rule: PruningRule, sets: list[ChannelSet], kept: Mapping[str, Tensor], config: PruneConfig
) -> nn.Module:
    """A model of the class with other options."""
    options = {name: value for name, value in model.config.items() if not name.startswith("_")}
    counts = {name: len(index) for name, index in kept.items()}
    pruned = type(model)(**options | rule.config(model, counts))  # type: ignore[misc]  # there is one
    names, values = rule.rename(model, pruned), cut(model.state_dict(), sets, kept)
    for old, new in names.items():
        values[new] = values.pop(old)
    if config.inherit == "mapping":
        values = {name: value for name, value in values.items() if name.startswith("mapping.")}
    _load(pruned, values, strict=config.inherit == "all")
    if config.init != "keep":
        _initialize(pruned, config)
    if config.compensate_gain:
        _compensate(model, pruned)
    for name, tensor in pruned.state_dict().items():
        if name in values and tensor.dtype != values[name].dtype:
            owner, _, leaf = name.rpartition(".")
            set_tensor_(pruned.get_submodule(owner), leaf, tensor.to(values[name].dtype))
    for name, parameter in model.named_parameters():
        pruned.get_parameter(names.get(name, name)).requires_grad_(parameter.requires_grad)
    return pruned.to(next(model.parameters()).device).train(model.training)


def _build_structure(
    model: nn.Module, sets: list[ChannelSet], kept: Mapping[str, Tensor], config: PruneConfig
) -> nn.Module:
    """A copy with the cut tensors, whose class options stay."""
    values = cut({name: tensor.detach() for name, tensor in model.state_dict().items()}, sets, kept)
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}  # not copied
    pruned = copy.deepcopy(model, memo)
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        set_tensor_(pruned.get_submodule(owner), leaf, value.clone(memory_format=torch.contiguous_format))
    for module in pruned.modules():
        if isinstance(module, nn.GroupNorm) and module.affine:
            module.num_groups = _num_groups(module, config)
    update_attributes_(pruned)
    if config.init != "keep":
        _initialize(pruned, config)
    return pruned


def _num_groups(norm: nn.GroupNorm, config: PruneConfig) -> int:
    """Of a norm whose weight is cut: the largest divisor of old number and width; with whole groups, the largest number
    of groups of equal width that are no smaller than they were.
    """
    width = len(norm.weight)
    if config.group_rule != "whole_groups":
        return math.gcd(norm.num_groups, width)
    least = norm.num_channels // norm.num_groups
    return max((n for n in range(1, norm.num_groups + 1) if width % n == 0 and width // n >= least), default=1)


def _load(pruned: nn.Module, values: Mapping[str, Tensor], strict: bool) -> None:
    own = pruned.state_dict()
    wrong = [name for name in values if name not in own or own[name].shape != values[name].shape]
    wrong += [name for name in own if strict and name not in values]
    if wrong:
        raise ValueError(f"prune_: the rule does not fit: {', '.join(wrong[:5])}.")
    for name, value in values.items():
        own[name].copy_(value)


@torch.no_grad()
def _initialize(model: nn.Module, config: PruneConfig) -> None:
    """Draw the synthesis network again (Singular Value Scaling, table 7): weights by fan-in, biases 0."""
    family = family_of(model)
    prefix = family.refine_prefix if family else ""
    for name, parameter in model.named_parameters():
        if not name.startswith(prefix):
            continue
        if name.endswith("weight") and parameter.ndim >= 2:
            if config.init == "he":
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias") and not (config.keep_affine_bias and "affine" in name):
            nn.init.zeros_(parameter)


@torch.no_grad()
def _compensate(model: nn.Module, pruned: nn.Module) -> None:
    old: Any
    new: Any
    for old, new in zip(model.modules(), pruned.modules()):
        if hasattr(new, "weight_gain") or getattr(new, "is_image", False):
            new.weight.mul_(math.sqrt(new.weight.shape[1] / old.weight.shape[1]))
