# SPDX-License-Identifier: Apache-2.0
"""Clipping at the threshold with the least squared error, found by search, on all 2**bits levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..chunks import CHUNK, as_float, float_dtype, largest_of_blocks, largest_of_rows, row_chunks
from ..grid import QuantizedRows, nearest_codes, stored_scale


_COARSE, _FINE = 22, 9  # thresholds tried: over the whole range, then around the best
_COARSE_OF_LARGE, _FINE_OF_LARGE = 12, 5
_LOWEST = 0.15  # of the largest magnitude
_LARGE = 2**18  # weights of a tensor from which on fewer thresholds are tried
_LONG = 1024  # weights of a row of such a tensor from which on the search looks at some of them
_SAMPLED, _SAMPLED_IN_ALL = 256, 2**18  # at least so many of every row, and of all rows
_BLOCK = 64  # weights of which the largest is looked at besides
_FEW = 32  # rows that tell which thresholds are worth trying on all of them
_OFFSETS = {"midtread": 0.0, "midrise": 0.5}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MSEClip:
    r"""Clip each row at the threshold :math:`\alpha` in (0.15 .. 1) max|w| with the least squared error; all :math:`2^b` levels are used.

    Of many rows, 32 or more are searched over the whole range; they choose the levels and the part of the range that all others are searched over, except
    those that are best at its ends. In tensors of 2^18 weights and more, 17 thresholds are tried instead of 31, and of rows of 1,024 weights and
    more the search looks at every n-th weight, at least 256 of a row, and at the largest of every 64 for what is clipped.

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
        coarse, fine = (_COARSE_OF_LARGE, _FINE_OF_LARGE) if large else (_COARSE, _FINE)
        few = slice(None, None, len(rows) // _FEW) if len(rows) >= 2 * _FEW else slice(None)
        seen = _Samples(sample, peaks, step)
        found = [_Search(largest[few], bits, offset, scale_dtype) for offset in offsets]
        for search in found:
            search.over_the_range(seen[few], coarse)
            search.around_the_best(seen[few], coarse, fine)
        best = min(found, key=_Search.error)
        if few.step:
            best = best.of_all_rows(largest, seen, coarse)
            best.around_the_best(seen, coarse, fine)
        return best.quantized(rows)


@dataclass(frozen=True)
class _Samples:
    """What a search looks at.

    Args:
        rows: (R, N), or some of their weights.
        peaks: (R, M), the largest magnitudes of blocks of the whole rows; None: ``rows`` are whole.
        weight: How many weights one of ``rows`` stands for.
    """

    rows: Tensor
    peaks: Tensor | None
    weight: int

    def __getitem__(self, which: slice | Tensor) -> _Samples:
        return _Samples(self.rows[which], None if self.peaks is None else self.peaks[which], self.weight)


class _Search:
    """The best share of the largest magnitude so far, for every row, and its squared error."""

    def __init__(self, largest: Tensor, bits: int, level_offset: float, scale_dtype: torch.dtype):
        self.largest, self.bits, self.level_offset, self.scale_dtype = largest, bits, level_offset, scale_dtype
        self.best = torch.ones_like(largest)
        self.least = torch.full_like(largest, torch.inf)

    def error(self) -> float:
        return float(self.least.sum())

    def over_the_range(self, seen: _Samples, count: int, low: float = _LOWEST, high: float = 1.0) -> None:
        """Those of ``count`` shares from 1 to 0.15 that lie in ``low .. high``."""
        spacing = _spacing(count)
        shares = [share for i in range(count) if low <= (share := 1 - i * spacing) <= high]
        self._try(seen, self.best.new_tensor(shares).view(-1, 1, 1).expand(-1, *self.best.shape))

    def of_all_rows(self, largest: Tensor, seen: _Samples, count: int) -> _Search:
        """The search of all rows of which this was one of some: over the shares that were best, and their neighbours; of rows that are best at an end, over all."""
        found = _Search(largest, self.bits, self.level_offset, self.scale_dtype)
        margin = 1.5 * _spacing(count)
        low, high = float(self.best.min()) - margin, float(self.best.max()) + margin
        found.over_the_range(seen, count, low, high)
        at_ends = ((found.best <= low + margin / 1.5) | (found.best >= high - margin / 1.5)) & (found.best < 1)
        which = at_ends[:, 0].nonzero()[:, 0]
        if len(which):
            again = _Search(largest[which], self.bits, self.level_offset, self.scale_dtype)
            again.over_the_range(seen[which], count)
            found.best[which], found.least[which] = again.best, again.least
        return found

    def around_the_best(self, seen: _Samples, coarse: int, count: int) -> None:
        """``count`` shares between the neighbours of the best of ``coarse``."""
        spacing = _spacing(coarse) / (count // 2 + 1)
        offsets = [spacing * i for i in range(-(count // 2), count // 2 + 1)]
        self._try(seen, (self.best + self.best.new_tensor(offsets).view(-1, 1, 1)).clamp_(max=1.0))

    def _try(self, seen: _Samples, shares: Tensor) -> None:
        """Some rows and shares (S, R, 1) at a time, so that what is computed for them stays in the cache."""
        dtype, half = float_dtype(seen.rows), 2 ** (self.bits - 1)
        scales = self.scale(shares).to(dtype)
        inverses, start, memory = scales.reciprocal(), 0, torch.empty(0, 0)
        for part in row_chunks(seen.rows):
            here = slice(start, start + len(part))
            start += len(part)
            together = max(1, CHUNK // max(1, part.numel()))
            for first in range(0, len(shares), together):
                tried = slice(first, first + together)
                inverse = inverses[tried, here]
                size = len(inverse) * part.numel()
                if memory.shape[1] < size:  # memory that is new to the process costs more than what is computed in it
                    memory = torch.empty(2, size, dtype=dtype, device=part.device)
                levels, codes = memory[:, :size].view(2, len(inverse), *part.shape)
                torch.mul(part, inverse, out=levels)
                if self.level_offset:
                    levels.sub_(self.level_offset)
                torch.round(levels, out=codes)
                squares = levels.sub_(codes.clamp_(-half, half - 1)).square_()
                errors = squares.sum(dim=2, keepdim=True)
                if seen.peaks is not None:
                    # Beyond half a step, squared, it is clipping: counted in the sample where it is common, in the peaks where it is rare.
                    clipped = squares.sub_(0.25).clamp_min_(0.0).sum(dim=2, keepdim=True).mul_(seen.weight)
                    beyond = (seen.peaks[here] * inverse).sub_(half - 0.5).clamp_min_(0.0).square_()
                    beyond = beyond.sub_(0.25).clamp_min_(0.0).sum(dim=2, keepdim=True)
                    errors = errors * seen.weight + (beyond - clipped).clamp_min_(0.0)
                errors = errors.mul_(scales[tried, here].square())
                best = errors.argmin(dim=0, keepdim=True)  # of equal ones the first
                error, share = errors.gather(0, best)[0], shares[tried, here].gather(0, best)[0]
                better = error < self.least[here]
                self.best[here] = torch.where(better, share, self.best[here])
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


def _spacing(count: int) -> float:
    """Between ``count`` shares from 1 to 0.15."""
    return (1 - _LOWEST) / (count - 1)
