# SPDX-License-Identifier: Apache-2.0
"""Clipping at the threshold with the least squared error, found by search, on all 2**bits levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..grid import QuantizedRows, nearest_codes, stored_scale


_COARSE, _FINE = 22, 9  # thresholds tried: over the whole range, then around the best
_LOWEST = 0.15  # of the largest magnitude
_OFFSETS = {"midtread": 0.0, "midrise": 0.5}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MSEClip:
    r"""Clip each row at the threshold :math:`\alpha` in (0.15 .. 1) max|w| with the least squared error; all :math:`2^b` levels are used.

    Args:
        levels: "midrise": (k + 1/2) s, as many levels below as above zero, none at zero (1-2 dB better at 2 bits);
            "midtread": k s, one level more below zero than above; "auto": the one with the smaller error, by tensor.

    Example:
        >>> sorted(MSEClip()(torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)), bits=2).codes.unique().tolist())
        [-2, -1, 0, 1]
    """

    levels: str = "auto"

    def __post_init__(self):
        if self.levels not in ("auto", *_OFFSETS):
            raise ValueError(f"mse_clip: levels is {self.levels!r}; allowed are auto, {', '.join(_OFFSETS)}.")

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        if self.levels != "auto":
            return self._search(rows, bits, _OFFSETS[self.levels], scale_dtype)[0]
        found = [self._search(rows, bits, offset, scale_dtype) for offset in _OFFSETS.values()]
        return min(found, key=lambda pair: pair[1])[0]

    def _search(
        self, rows: Tensor, bits: int, level_offset: float, scale_dtype: torch.dtype
    ) -> tuple[QuantizedRows, float]:
        """The best codes and scales, and their squared error."""
        highest = 2 ** (bits - 1) - 1 + level_offset
        largest = rows.abs().amax(dim=1, keepdim=True)

        def candidate(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            scale = largest * share / highest
            if level_offset:  # there is no level at zero: a tiny scale for all-zero rows
                scale = scale.clamp_min(_TINY)
            scale = stored_scale(scale, scale_dtype)
            codes = nearest_codes(rows, scale, bits, level_offset=level_offset)
            error = (codes.to(rows.dtype) + level_offset).mul_(scale.to(rows.dtype)).sub_(rows).square_()
            return codes, scale, error.sum(dim=1, keepdim=True)

        best = torch.ones_like(largest)
        least = torch.full_like(largest, torch.inf)
        spacing = (1 - _LOWEST) / (_COARSE - 1)
        coarse = [torch.full_like(largest, 1 - i * spacing) for i in range(_COARSE)]
        for share in coarse:
            error = candidate(share)[2]
            best, least = torch.where(error < least, share, best), torch.minimum(error, least)
        centre = best
        for i in range(-(_FINE // 2), _FINE // 2 + 1):
            share = (centre + spacing * i / (_FINE // 2 + 1)).clamp(max=1.0)
            error = candidate(share)[2]
            best, least = torch.where(error < least, share, best), torch.minimum(error, least)
        codes, scale, error = candidate(best)
        return QuantizedRows(codes, scale, level_offset), float(error.sum())
