# SPDX-License-Identifier: Apache-2.0
"""Rows of weights rotated by random signs and Hadamard matrices, so that errors of rounding spread; and back."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


POWERS = (4, 8, 16, 32, 64, 128)  # inputs that are mixed
_MOST = 32  # more take longer to mix back, and gain nothing (docs/quantization.md)
_BITS = 8  # of levels that any matrix product mixes without rounding, also those that bring factors to bfloat16


def block_of(length: int) -> int:
    """How many of ``length`` weights in a row are mixed: the largest power of 2 up to 32 that divides it; 0 below 4.

    Example:
        >>> block_of(1152), block_of(72), block_of(27)
        (32, 8, 0)
    """
    return max((power for power in POWERS if power <= _MOST and length % power == 0), default=0)


def rotated(weight: Tensor, block: int) -> Tensor:
    """``weight`` (O, C), each block of a row times signs and a Hadamard matrix; sizes stay to a factor of 1.5."""
    return _transformed(weight * _signs(weight.shape[1]).to(weight), block) * 2.0 ** -(block.bit_length() // 2)


def unrotated(weight: Tensor, block: int) -> Tensor:
    """Inverse of :func:`rotated`: sums and differences in a fixed order, the same bits by any kernel, in any parts."""
    values = _transformed(weight, block) * 2.0 ** -((block.bit_length() - 1) // 2)
    return values * _signs(weight.shape[1]).to(weight)


def unrotated_levels(levels: Tensor, block: int, out: Tensor | None = None) -> Tensor:
    """:func:`unrotated` of ``levels`` (O, C) float32 for which it is exact, whatever the order of sums: multiples of a
    power of 2 of at most 8 bits.

    Written to ``out``, contiguous, if it is given.
    """
    if torch.compiler.is_compiling():
        return unrotated(levels, block)
    matrix, factors = unrotating(levels.shape[1], block)
    found = torch.empty_like(levels) if out is None else out.view(levels.shape)
    # Autocast leaves `out` alone.
    torch.mm(levels.view(-1, block), matrix.to(levels.device), out=found.view(-1, block))
    return found.mul_(factors.to(levels.device))


def on_grid(levels: Tensor) -> Tensor:
    """``levels`` (K,) float16 rounded to those that :func:`unrotated_levels` takes."""
    step = 2.0 ** (torch.frexp(levels.abs().max().float()).exponent.item() - _BITS)
    return (levels.float() / step).round().mul(step).half()


@functools.lru_cache(maxsize=64)
def unrotating(length: int, block: int) -> tuple[Tensor, Tensor]:
    """Matrix of +-1 (block, block), factors (length,): :func:`unrotated` is blocks times it, times the factors."""
    return _transformed(torch.eye(block), block), _signs(length) * 2.0 ** -((block.bit_length() - 1) // 2)


def rotated_curvature(curvature: Tensor, block: int) -> Tensor:
    """What ``curvature`` (C, C) of a row is to the rotated row."""
    for _ in range(2):
        scaled = curvature * _signs(len(curvature)).to(curvature) * 2.0 ** -((block.bit_length() - 1) // 2)
        curvature = _transformed(scaled, block).t()
    return curvature


def _transformed(weight: Tensor, block: int) -> Tensor:
    """Every block of ``weight`` (O, C) times the Hadamard matrix of its size, not normalized."""
    # One number of all blocks after the other: sums and differences of whole rows, several times as fast as of
    # neighbours.
    values, width = weight.reshape(-1, block).t().contiguous(), 1
    while width < block:
        first, second = values.view(block // (2 * width), 2, width, -1).unbind(1)
        values = torch.stack((first + second, first - second), dim=1)
        width *= 2
    return values.view(block, -1).t().reshape(weight.shape).contiguous()


@torch.compiler.assume_constant_result
def _signs(length: int) -> Tensor:
    return _hashed_signs(length)


@functools.lru_cache(maxsize=64)
def _hashed_signs(length: int) -> Tensor:
    """1 or -1 at every place, from a hash of it: stored models depend on these."""
    places = torch.arange(1, length + 1) * 2654435761 & 0xFFFFFFFF
    places = (places ^ (places >> 15)) * 2246822519 & 0xFFFFFFFF
    return 1.0 - 2.0 * ((places ^ (places >> 13)) & 1).float()
