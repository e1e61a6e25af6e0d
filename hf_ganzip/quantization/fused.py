# SPDX-License-Identifier: Apache-2.0
"""Adapters fused into packed layers: products of thin matrices that are added to what the codes stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


FUSED = ("weight_fused_up", "weight_fused_down")  # buffers: (O, r) and (r, C) of all fused adapters


def fuse_(module: nn.Module, name: str, up: Tensor, down: Tensor) -> None:
    """Add the product of ``up`` (O, r) and ``down`` (r, C), in float32, to the weight (O, C), output channels first.

    Codes stay as they are. ``name`` is by what :func:`unfuse_` finds it.

    Raises:
        ValueError: A factor that is not finite.
    """
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise ValueError(f"fuse_lora: the adapter {name!r} has NaN or infinity; nothing was fused into this layer.")
    factors = [factor.detach().float().to(module.weight_codes.device) for factor in (up, down)]
    _set(module, [torch.cat(pair, axis) for axis, pair in zip((1, 0), zip(_factors(module), factors))])
    module.packed_fused = (*module.packed_fused, (name, up.shape[1]))


def unfuse_(module: nn.Module, name: str) -> None:
    """Take the adapter that was fused last under ``name`` off again; the weight is what it was before, bit by bit.

    Raises:
        ValueError: There is none of this name.
    """
    names = [each for each, _ in module.packed_fused]
    if name not in names:
        raise ValueError(f"unfuse_lora: no adapter {name!r} is fused; there are {', '.join(names) or 'none'}.")
    at = len(names) - 1 - names[::-1].index(name)
    ranks = [rank for _, rank in module.packed_fused]
    kept = torch.ones(sum(ranks), dtype=torch.bool)
    kept[sum(ranks[:at]) : sum(ranks[: at + 1])] = False
    up, down = _factors(module)
    kept = kept.to(up.device)
    _set(module, [up[:, kept].contiguous(), down[kept].contiguous()])
    module.packed_fused = (*module.packed_fused[:at], *module.packed_fused[at + 1 :])


def with_fused(module: nn.Module, weight: Tensor) -> Tensor:
    """``weight``, float32 of the layer's shape, with what is fused."""
    up, down = _factors(module)
    layout = module.packed_layout
    moved = weight.transpose(0, 1) if layout.axis else weight
    moved = moved + (up @ down).view(layout.moved_shape)
    return (moved.transpose(0, 1) if layout.axis else moved).contiguous()


def _factors(module: nn.Module) -> list[Tensor]:
    if module.packed_fused:
        return [module._buffers[name] for name in FUSED]
    outputs, *inputs = module.packed_layout.moved_shape
    inputs = torch.Size(inputs).numel()
    return [torch.empty(shape, device=module.weight_codes.device) for shape in ((outputs, 0), (0, inputs))]


def _set(module: nn.Module, factors: list[Tensor]) -> None:
    """Keep the factors, or, of rank 0, no trace of them."""
    for name, factor in zip(FUSED, factors):
        module._buffers.pop(name, None)
        if factors[0].shape[1]:
            module.register_buffer(name, factor)
    module._dequantized = None
