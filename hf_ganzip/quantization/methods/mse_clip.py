# SPDX-License-Identifier: Apache-2.0
"""Clipping at the threshold with the least squared error, found by search, on all 2**bits levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..chunks import by_rows, row_chunks
from ..grid import QuantizedRows, nearest_codes, stored_scale


_COARSE, _FINE = 22, 9  # thresholds tried: over the whole range, then around the best
_LOWEST = 0.15  # of the largest magnitude
_FINE_OF_LONG = 5
_SPACING = (1 - _LOWEST) / (_COARSE - 1)
_LARGE, _LONG = 2**20, 1024  # weights of a tensor and of a row from which on the coarse search looks at some of them
_SAMPLED, _SAMPLED_IN_ALL = 256, 2**18  # at least so many of every row, and of all rows
_UNSAMPLED = (1.0, 0.7)  # tried on all weights of a long row, because its sample may lack the outliers
_OFFSETS = {"midtread": 0.0, "midrise": 0.5}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MSEClip:
    r"""Clip each row at the threshold :math:`\alpha` in (0.15 .. 1) max|w| with the least squared error; all :math:`2^b` levels are used.

    Of rows of 1,024 weights and more in tensors of 2^20 and more, a first search looks at every n-th weight, at least 256 of a row; the second, around the best
    threshold and at 1 and 0.7 max|w|, at all.

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
        largest = by_rows(lambda part: part.abs().amax(dim=1, keepdim=True), rows)
        some = rows.numel() >= _LARGE and rows.shape[1] >= _LONG
        step = max(1, rows.shape[1] // max(_SAMPLED, _SAMPLED_IN_ALL // len(rows))) if some else 1
        sample = rows[:, ::step].contiguous() if step > 1 else rows
        offsets = _OFFSETS.values() if self.levels == "auto" else [_OFFSETS[self.levels]]
        found = [_Search(largest, bits, offset, scale_dtype) for offset in offsets]
        for search in found:
            search.try_shares(sample, [1 - i * _SPACING for i in range(_COARSE)])
        if step > 1:  # the kind of levels, too, is chosen by the sample
            found = [min(found, key=_Search.error)]
            found[0].forget_errors()
        for search in found:
            search.refine(rows, _FINE_OF_LONG if step > 1 else _FINE)
        if step > 1:
            found[0].try_shares(rows, _UNSAMPLED)
        return min(found, key=_Search.error).quantized(rows)


class _Search:
    """The best share of the largest magnitude so far, for every row, and its squared error."""

    def __init__(self, largest: Tensor, bits: int, level_offset: float, scale_dtype: torch.dtype):
        self.largest, self.bits, self.level_offset, self.scale_dtype = largest, bits, level_offset, scale_dtype
        self.best = torch.ones_like(largest)
        self.forget_errors()

    def forget_errors(self) -> None:
        self.least = torch.full_like(self.largest, torch.inf)

    def error(self) -> float:
        return float(self.least.sum())

    def try_shares(self, rows: Tensor, shares: list[float] | tuple[float, ...]) -> None:
        self._try(rows, [torch.full_like(self.largest, share) for share in shares])

    def refine(self, rows: Tensor, count: int) -> None:
        """``count`` shares between the neighbours of the best one, itself among them."""
        offsets = [_SPACING * i / (count // 2 + 1) for i in range(-(count // 2), count // 2 + 1)]
        self._try(rows, [(self.best + offset).clamp(max=1.0) for offset in offsets])

    def _try(self, rows: Tensor, shares: list[Tensor]) -> None:
        """Chunk by chunk, so that what is computed for a share stays in the cache."""
        half = 2 ** (self.bits - 1)
        scales = [self.scale(share).to(rows.dtype) for share in shares]
        inverses = [scale.reciprocal() for scale in scales]
        start = 0
        for part in row_chunks(rows):
            here = slice(start, start + len(part))
            levels, start = torch.empty_like(part), start + len(part)
            for share, scale, inverse in zip(shares, scales, inverses):
                torch.mul(part, inverse[here], out=levels)
                if self.level_offset:
                    levels.sub_(self.level_offset).round_().clamp_(-half, half - 1).add_(self.level_offset)
                else:
                    levels.round_().clamp_(-half, half - 1)
                error = levels.mul_(scale[here]).sub_(part).square_().sum(dim=1, keepdim=True)
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
