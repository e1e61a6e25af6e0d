# SPDX-License-Identifier: Apache-2.0
"""Channel sets of diffusion UNets."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..families import family_of, map_tensors
from .channels import ChannelSet, Slice


_PAIRED = {  # layers that write two values per channel, half of their width apart
    "GEGLU": ("proj",),
    "SwiGLU": ("proj",),
    "ResnetBlock2D": ("time_emb_proj",),  # a scale and a shift, where `time_embedding_norm` says so
}


def unet_sets(model: nn.Module) -> list[ChannelSet]:
    """What belongs together according to torch-pruning's dependency graph; the outputs of ``conv_out`` stay.

    A copy on the meta device is traced: no weight is touched, and no arithmetic is done.

    Raises:
        ValueError: The network couples channels in a way that is no set of whole slices.
    """
    import torch_pruning

    twin = _on_meta(model)
    args, kwargs = family_of(model).example_inputs(model)  # type: ignore[union-attr]
    args, kwargs = map_tensors(lambda tensor: tensor.to("meta"), (list(args), kwargs))
    with torch.enable_grad():  # what is traced
        graph = torch_pruning.DependencyGraph().build_dependency(
            twin, args, forward_fn=lambda twin, args: twin(*args, return_dict=False, **kwargs)[0]
        )
    names = {module: name for name, module in twin.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    found = [
        _channel_set(twin, [item for item in group if item.dep.target.module in names], names, order)
        for group in graph.get_all_groups(ignored_layers=[twin.conv_out], root_module_types=[nn.Conv2d, nn.Linear])
    ]
    return sorted(found, key=lambda channels: order[channels.name])


def _on_meta(model: nn.Module) -> nn.Module:
    """Copy in float32 without memory, whose parameters all take gradients: tracing follows them."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty(parameter.shape, device="meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo).eval()


def _channel_set(twin: nn.Module, group: Any, names: dict[nn.Module, str], order: dict[str, int]) -> ChannelSet:
    root = group[0]
    width, pairs = len(root.root_idxs), False
    owner, _, leaf = names[root.dep.target.module].rpartition(".")
    parent = twin.get_submodule(owner)
    if leaf in _PAIRED.get(type(parent).__name__, ()):
        pairs = getattr(parent, "time_embedding_norm", "scale_shift") == "scale_shift"
        width = width // 2 if pairs else width
    slices: set[Slice] = set()
    blocks, norm = 1, False
    for item in group:
        module, name = item.dep.target.module, names[item.dep.target.module]
        writes = item.dep.handler.__name__ == "prune_out_channels"
        for offset in _offsets(name, item.idxs, item.root_idxs, width, pairs):
            slices.update(_slices(module, name, writes, offset))
        if isinstance(module, nn.GroupNorm):
            norm = True
            if width % module.num_groups == 0:  # not so where a norm spans sets that were pruned differently
                blocks = max(blocks, module.num_groups)
        within, _, leaf = name.rpartition(".")
        if leaf in ("to_q", "to_k", "to_v") and writes:
            attention: Any = twin.get_submodule(within)
            blocks = max(blocks, attention.heads)
    writers = [item.dep.target.module for item in group if item.dep.handler.__name__ == "prune_out_channels"]
    first = min((names[m] for m in writers if isinstance(m, (nn.Conv2d, nn.Linear))), key=order.__getitem__)
    if width % blocks:
        raise ValueError(f"prune_: {first} has {width} channels, which are no multiple of its {blocks} blocks.")
    ordered = sorted(
        slices, key=lambda part: (order[part.tensor.rpartition(".")[0]], part.tensor, part.axis, part.offset)
    )
    return ChannelSet(first, width, tuple(ordered), blocks=blocks, norm=norm)


def _offsets(name: str, local: list[int], roots: list[int], width: int, pairs: bool) -> set[int]:
    """Where the runs of ``width`` channels begin in a tensor.

    Raises:
        ValueError: They are no runs.
    """
    if pairs:
        return {own - root % width for own, root in zip(local, roots)}
    found = set()
    for start in range(0, len(local), width):
        own, root = list(local[start : start + width]), list(roots[start : start + width])
        if root != list(range(width)) or own != list(range(own[0], own[0] + width)):
            raise ValueError(f"prune_: the channels of {name} are coupled in a way that is not understood.")
        found.add(own[0])
    return found


def _slices(module: nn.Module, name: str, writes: bool, offset: int) -> list[Slice]:
    """What the channels own in a module.

    Raises:
        ValueError: A kind of module without a rule.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        found = [Slice(f"{name}.weight", 0 if writes else 1, offset=offset)]
        if writes and module.bias is not None:
            found.append(Slice(f"{name}.bias", 0, offset=offset))
        return found
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return [Slice(f"{name}.{part}", 0, offset=offset) for part, _ in module.named_parameters()]
    if isinstance(module, nn.Embedding):
        return [Slice(f"{name}.weight", 1, offset=offset)]
    raise ValueError(f"prune_: there is no rule for {name}, a {type(module).__name__}.")
