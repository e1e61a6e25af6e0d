# SPDX-License-Identifier: Apache-2.0
"""One codebook of 2**bits levels per tensor, fitted by Lloyd's algorithm to the scaled weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..chunks import as_float, by_rows, largest_of_rows
from ..grid import QuantizedRows, nearest_codes, stored_scale


_ITERATIONS = 60
# Weights that levels, and those of a row that its scale, are fitted to: evenly spaced, at least, of twice as many and
# more.
_SAMPLED, _PER_LEVEL, _OF_A_ROW = 2**16, 2**10, 2**10
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Codebook:
    r"""w = codebook[code] * scale: scale is the root mean square (or the largest magnitude) of a row, the levels are
    those of Lloyd-Max.

    Args:
        normalize: "rms", or "absmax", which is better for small groups of heavy-tailed weights.

    Example:
        >>> quantized = Codebook()(torch.randn(4, 9999, generator=torch.Generator().manual_seed(0)), bits=2)
        >>> [round(x, 1) for x in quantized.codebook.tolist()]  # the Gaussian optimum is -1.51, -0.45, 0.45, 1.51
        [-1.5, -0.5, 0.4, 1.5]

    Source:
        Lloyd, "Least squares quantization in PCM", 1982.
    """

    casts_rows: ClassVar[bool] = True
    normalize: str = "rms"

    def __post_init__(self) -> None:
        if self.normalize not in ("rms", "absmax"):
            raise ValueError(f"codebook: normalize is {self.normalize!r}; allowed are rms, absmax.")

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        magnitudes = largest_of_rows(rows)
        used = magnitudes > 0
        safe = torch.where(used, magnitudes, torch.ones_like(magnitudes))
        scale = by_rows(_root_mean_square, rows, safe) if self.normalize == "rms" else torch.ones_like(safe)
        scale = torch.where(used, scale * safe, torch.full_like(safe, _TINY)).clamp_min(_TINY)
        step = max(1, rows.numel() // max(_SAMPLED, _PER_LEVEL * 2**bits))
        some = as_float(rows.reshape(-1)[::step])
        owners = torch.arange(0, rows.numel(), step, device=rows.device) // rows.shape[1]
        levels = lloyd_levels((some / scale[:, 0][owners])[used[:, 0][owners]], bits).half().float()
        some = rows[:, :: max(1, rows.shape[1] // _OF_A_ROW)]
        codes = nearest_codes(some, scale, bits, codebook=levels)
        half = 2 ** (bits - 1)
        better = by_rows(
            lambda part, own, code: _least_squares_scale(part, own, levels, code.int() + half), some, scale, codes
        )
        scale = stored_scale(better, scale_dtype)
        return QuantizedRows(nearest_codes(rows, scale, bits, codebook=levels), scale, codebook=levels.half())


def _root_mean_square(rows: Tensor, magnitudes: Tensor) -> Tensor:
    """Relative to the largest magnitudes (R, 1), so that squares do not overflow."""
    return (rows / magnitudes).square().mean(dim=1, keepdim=True).sqrt()


def lloyd_levels(values: Tensor, bits: int) -> Tensor:
    """Ascending levels (2**bits,) float64 with locally least squared error for ``values`` (N,)."""
    count = 2**bits
    if not values.numel():
        return torch.linspace(-1, 1, count, dtype=torch.float64, device=values.device)
    ordered = values.double().sort().values
    sums = torch.nn.functional.pad(ordered.cumsum(0), (1, 0))
    quantiles = (torch.arange(count, dtype=torch.float64, device=values.device) + 0.5) / count
    levels = ordered[(quantiles * len(ordered)).long()]
    for _ in range(_ITERATIONS):
        inner = torch.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        edges = torch.nn.functional.pad(inner, (1, 1))
        edges[-1] = len(ordered)
        sizes = torch.diff(edges)
        means = torch.diff(sums[edges]) / sizes.clamp_min(1)
        moved = torch.where(sizes > 0, means, levels).sort().values
        if torch.equal(moved, levels):
            break
        levels = moved
    return levels


def _least_squares_scale(rows: Tensor, scale: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    """The scale (R, 1) with the least error for the levels at ``index`` (R, N), where it is positive."""
    chosen = torch.index_select(levels, 0, index.view(-1)).view(rows.shape)
    power = torch.linalg.vector_norm(chosen, dim=1, keepdim=True).square()
    relative = (rows / scale).mul_(chosen).sum(dim=1, keepdim=True) / power
    return torch.where(torch.isfinite(relative) & (relative > 0.1), relative * scale, scale)
