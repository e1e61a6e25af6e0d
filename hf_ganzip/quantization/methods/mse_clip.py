# SPDX-License-Identifier: Apache-2.0
"""Clipping at the threshold with the least squared error, found by search, on all 2**bits levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..chunks import as_float, float_dtype, largest_of_blocks, largest_of_rows, row_chunks
from ..grid import QuantizedRows, nearest_codes, stored_scale


_COARSE, _FINE = 22, 9  # thresholds tried: over the whole range, then around the best
_COARSE_OF_LARGE, _FINE_OF_LARGE = 12, 5
_LOWEST = 0.15  # of the largest magnitude
_LARGE = 2**18  # weights of a tensor from which on fewer thresholds are tried
_LONG = 1024  # weights of a row of such a tensor from which on the search looks at some of them
_SAMPLED, _SAMPLED_IN_ALL = 256, 2**18  # at least so many of every row, and of all rows
_BLOCK = 64  # weights of which the largest is looked at besides
_OFFSETS = {"midtread": 0.0, "midrise": 0.5}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MSEClip:
    r"""Clip each row at the threshold :math:`\alpha` in (0.15 .. 1) max|w| with the least squared error; all :math:`2^b` levels are used.

    In tensors of 2^18 weights and more, 17 thresholds are tried instead of 31, and of rows of 1,024 weights and more the search looks at every n-th
    weight, at least 256 of a row, and at the largest of every 64 for what is clipped.

    Args:
        levels: "midrise": (k + 1/2) s, as many levels below as above zero, none at zero (1-2 dB better at 2 bits);
            "midtread": k s, one level more below zero than above; "auto": the one with the smaller error, by tensor; "integers": "auto" up to 7 bits,
            "midtread" at 8, where the odd integers of "midrise" are no int8.

    Example:
        >>> sorted(MSEClip()(torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)), bits=2).codes.unique().tolist())
        [-2, -1, 0, 1]
    """

    casts_rows: ClassVar[bool] = True
    levels: str = "auto"

    def __post_init__(self):
        if self.levels not in ("auto", "integers", *_OFFSETS):
            raise ValueError(
                f"mse_clip: levels is {self.levels!r}; allowed are auto, integers, {', '.join(_OFFSETS)}."
            )

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        large, step, sample, peaks = rows.numel() >= _LARGE, 1, rows, None
        if large and rows.shape[1] >= _LONG:
            step = max(1, rows.shape[1] // max(_SAMPLED, _SAMPLED_IN_ALL // len(rows)))
            sample, peaks = as_float(rows[:, ::step].contiguous()), largest_of_blocks(rows, _BLOCK)
        largest = largest_of_rows(rows if peaks is None else peaks)
        levels = "midtread" if self.levels == "integers" and bits == 8 else self.levels
        offsets = [_OFFSETS[levels]] if levels in _OFFSETS else list(_OFFSETS.values())
        found = [_Search(largest, bits, offset, scale_dtype) for offset in offsets]
        coarse, fine = (_COARSE_OF_LARGE, _FINE_OF_LARGE) if large else (_COARSE, _FINE)
        for search in found:
            search.over_the_range(sample, peaks, step, coarse)
        if large:
            found = [min(found, key=_Search.error)]
        for search in found:
            search.around_the_best(sample, peaks, step, coarse, fine)
        return min(found, key=_Search.error).quantized(rows)


class _Search:
    """The best share of the largest magnitude so far, for every row, and its squared error."""

    def __init__(self, largest: Tensor, bits: int, level_offset: float, scale_dtype: torch.dtype):
        self.largest, self.bits, self.level_offset, self.scale_dtype = largest, bits, level_offset, scale_dtype
        self.best = torch.ones_like(largest)
        self.least = torch.full_like(largest, torch.inf)

    def error(self) -> float:
        return float(self.least.sum())

    def over_the_range(self, rows: Tensor, peaks: Tensor | None, weight: int, count: int) -> None:
        """``count`` shares from 1 to 0.15.

        Args:
            rows: (R, N), or some of their weights.
            peaks: (R, M), the largest magnitudes of blocks of the whole rows; None: ``rows`` are whole.
            weight: How many weights one of ``rows`` stands for.
            count: Shares to try.
        """
        spacing = (1 - _LOWEST) / (count - 1)
        self._try(rows, peaks, weight, [torch.full_like(self.best, 1 - i * spacing) for i in range(count)])

    def around_the_best(self, rows: Tensor, peaks: Tensor | None, weight: int, coarse: int, count: int) -> None:
        """``count`` shares between the neighbours of the best of ``coarse``."""
        spacing = (1 - _LOWEST) / (coarse - 1) / (count // 2 + 1)
        offsets = [spacing * i for i in range(-(count // 2), count // 2 + 1)]
        self._try(rows, peaks, weight, [(self.best + offset).clamp(max=1.0) for offset in offsets])

    def _try(self, rows: Tensor, peaks: Tensor | None, weight: int, shares: list[Tensor]) -> None:
        """Some rows at a time, so that what is computed for a share stays in the cache."""
        half, start = 2 ** (self.bits - 1), 0
        scales = [self.scale(share).to(float_dtype(rows)) for share in shares]
        inverses = [scale.reciprocal() for scale in scales]
        for part in row_chunks(rows):
            here = slice(start, start + len(part))
            start += len(part)
            levels, codes = torch.empty_like(part), torch.empty_like(part)
            for share, scale, inverse in zip(shares, scales, inverses):
                torch.mul(part, inverse[here], out=levels)
                if self.level_offset:
                    levels.sub_(self.level_offset)
                torch.round(levels, out=codes)
                squares = levels.sub_(codes.clamp_(-half, half - 1)).square_()
                error = squares.sum(dim=1, keepdim=True)
                if peaks is not None:
                    # Beyond half a step, squared, it is clipping: counted in the sample where it is common, in the peaks where it is rare.
                    clipped = squares.sub_(0.25).clamp_min_(0.0).sum(dim=1, keepdim=True).mul_(weight)
                    beyond = (peaks[here] * inverse[here]).sub_(half - 0.5).clamp_min_(0.0).square_()
                    beyond = beyond.sub_(0.25).clamp_min_(0.0).sum(dim=1, keepdim=True)
                    error = error * weight + (beyond - clipped).clamp_min_(0.0)
                error = error.mul_(scale[here].square())
                better = error < self.least[here]
                self.best[here] = torch.where(better, share[here], self.best[here])
                self.least[here] = torch.where(better, error, self.least[here])

    def scale(self, share: Tensor) -> Tensor:
        scale = self.largest * share / (2 ** (self.bits - 1) - 1 + self.level_offset)
        if self.level_offset:  # there is no level at zero: a tiny scale for all-zero rows
            scale = scale.clamp_min(_TINY)
        return stored_scale(scale, self.scale_dtype)

    def quantized(self, rows: Tensor) -> QuantizedRows:
        scale = self.scale(self.best)
        return QuantizedRows(
            nearest_codes(rows, scale, self.bits, level_offset=self.level_offset), scale, self.level_offset
        )
