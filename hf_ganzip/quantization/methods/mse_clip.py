# SPDX-License-Identifier: Apache-2.0
"""Clipping at the threshold with the least squared error, found by search, on all 2**bits levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..chunks import CHUNK, as_float, float_dtype, folded_peaks, largest_of_rows, row_chunks
from ..grid import QuantizedRows, nearest_codes, stored_scale


_LOWEST = 0.15  # of the largest magnitude
_LARGE, _LONG = 2**18, 512  # weights of a tensor and of its rows from which on errors are expected ones
_LEAST, _MOST = 0.95, 1.05  # share of the expected error that is measured where weights round as expected
_FOLDS = 4  # of 16 weights the largest is looked at
_FEW = 32  # rows that tell which thresholds are worth trying on all of them
_OFFSETS = {"midtread": 0.0, "midrise": 0.5}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MSEClip:
    r"""Clip each row at the threshold :math:`\alpha` in (0.15 .. 1) max|w| with the least squared error; all
    :math:`2^b` levels are used.

    Of many rows, 32 or more are searched over the whole range; they choose the levels and the part of the range that
    all others are searched over, except those that are best at its ends. In tensors of 2^18 weights and more with rows
    of 512 and more the search minimizes the expected error instead, which is as near the least as the measured one is:
    a twelfth of the squared step for every weight (rounding, uniform within a step), and what is clipped of the
    largest of every 16 weights. Not so at 2 bits, where that is a twentieth off for the 32 rows (heavy tails), and
    where a fourth of the weights repeat others of their row (on a grid of their own, or many zeros): they do not round
    uniformly.

    Args:
        levels: "midrise": (k + 1/2) s, as many levels below as above zero, none at zero (1-2 dB better at 2 bits);
            "midtread": k s, one level more below zero than above; "auto": the one with the smaller error, by tensor;
            "integers": "auto" up to 7 bits, "midtread" at 8, where the odd integers of "midrise" are no int8.

    Example:
        >>> rows = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
        >>> sorted(MSEClip()(rows, bits=2).codes.unique().tolist())
        [-2, -1, 0, 1]
    """

    casts_rows: ClassVar[bool] = True
    levels: str = "auto"

    def __post_init__(self) -> None:
        if self.levels not in ("auto", "integers", *_OFFSETS):
            raise ValueError(
                f"mse_clip: levels is {self.levels!r}; allowed are auto, integers, {', '.join(_OFFSETS)}."
            )

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        whole, best = _Whole(rows), None
        if bits > 2 and rows.numel() >= _LARGE and rows.shape[1] >= _LONG and not _repeated(rows):
            best = self._best(_Peaks(folded_peaks(rows, _FOLDS), rows.shape[1]), bits, scale_dtype, whole)
        if best is None:
            best = self._best(whole, bits, scale_dtype)
        return best.quantized(rows)  # type: ignore[union-attr]  # the whole rows always give one

    def _best(
        self, seen: _Whole | _Peaks, bits: int, scale_dtype: torch.dtype, whole: _Whole | None = None
    ) -> _Search | None:
        """The search of all rows; None if the measured error of some of the ``whole`` is not near the expected one."""
        levels = "midtread" if self.levels == "integers" and bits == 8 else self.levels
        offsets = [_OFFSETS[levels]] if levels in _OFFSETS else list(_OFFSETS.values())
        largest, few = largest_of_rows(seen.values), _few(seen.values)
        found = [_Search(largest[few], bits, offset, scale_dtype) for offset in offsets]
        for search in found:
            search.over_the_range(seen[few])
            search.around_the_best(seen[few])
        expected = [search.error() for search in found]
        if whole is not None:
            for search in found:
                search.measure(whole[few])
        measured = [search.error() for search in found]
        which = measured.index(min(measured))
        if not _LEAST * expected[which] <= measured[which] <= _MOST * expected[which]:
            return None
        if not few.step:
            return found[which]
        best = found[which].of_all_rows(largest, seen)
        best.around_the_best(seen)
        return best


@dataclass(frozen=True)
class _Whole:
    """All weights (R, N): the error is measured."""

    counts: ClassVar = (22, 8)  # thresholds tried: over the whole range, then around the best
    values: Tensor

    def __getitem__(self, which: slice | Tensor) -> _Whole:
        return _Whole(self.values[which])

    @staticmethod
    def errors(levels: Tensor, codes: Tensor, half: int, offset: float) -> Tensor:
        """Squared errors (S, R, 1) of weights divided by the step; overwrites ``levels`` (S, R, N) and ``codes``."""
        if offset:
            levels.sub_(offset)
        torch.round(levels, out=codes)
        return levels.sub_(codes.clamp_(-half, half - 1)).square_().sum(dim=2, keepdim=True)


@dataclass(frozen=True)
class _Peaks:
    """The largest magnitudes (R, M) of every 16 weights of rows of so many: the error is expected."""

    counts: ClassVar = (12, 4)
    values: Tensor
    length: int

    def __getitem__(self, which: slice | Tensor) -> _Peaks:
        return _Peaks(self.values[which], self.length)

    def errors(self, levels: Tensor, codes: Tensor, half: int, offset: float) -> Tensor:
        """Squared errors (S, R, 1) of the weights whose peaks are, divided by the step, ``levels`` (S, R, M), which
        are overwritten as ``codes`` are.
        """
        beyond = levels.sub_(half - 0.5 + offset).clamp_min_(0.0)  # the edge of the last level, half a step above it
        clipped = torch.sign(beyond, out=codes).sum(dim=2, keepdim=True).mul_(1 / 4 - 1 / 12)
        return clipped.add_(beyond.add_(0.5).square_().sum(dim=2, keepdim=True)).add_(
            self.length / 12 - levels.shape[2] / 4
        )


class _Search:
    """The best share of the largest magnitude so far, for every row, and its squared error."""

    def __init__(self, largest: Tensor, bits: int, level_offset: float, scale_dtype: torch.dtype):
        self.largest, self.bits, self.level_offset, self.scale_dtype = largest, bits, level_offset, scale_dtype
        self.best = torch.ones_like(largest)
        self.least = torch.full_like(largest, torch.inf)

    def error(self) -> float:
        return float(self.least.sum())

    def over_the_range(self, seen: _Whole | _Peaks, low: float = _LOWEST, high: float = 1.0) -> None:
        """Those of the shares from 1 to 0.15 that lie in ``low .. high``."""
        shares = [share for i in range(seen.counts[0]) if low <= (share := 1 - i * _spacing(seen)) <= high]
        self._try(seen, self.best.new_tensor(shares).view(-1, 1, 1).expand(-1, *self.best.shape))

    def of_all_rows(self, largest: Tensor, seen: _Whole | _Peaks) -> _Search:
        """The search of all rows of which this was one of some: over the shares that were best, and their neighbours;
        of rows that are best at an end, over all.
        """
        found = _Search(largest, self.bits, self.level_offset, self.scale_dtype)
        spacing = _spacing(seen)
        low, high = float(self.best.min()) - 1.5 * spacing, float(self.best.max()) + 1.5 * spacing
        found.over_the_range(seen, low, high)
        at_ends = ((found.best <= low + spacing) | (found.best >= high - spacing)) & (found.best < 1)
        which = at_ends[:, 0].nonzero()[:, 0]
        if len(which):
            again = _Search(largest[which], self.bits, self.level_offset, self.scale_dtype)
            again.over_the_range(seen[which])
            found.best[which], found.least[which] = again.best, again.least
        return found

    def around_the_best(self, seen: _Whole | _Peaks) -> None:
        """Shares between the neighbours of the best of those over the range."""
        half = seen.counts[1] // 2
        offsets = [_spacing(seen) / (half + 1) * i for i in range(-half, half + 1) if i]
        self._try(seen, (self.best + self.best.new_tensor(offsets).view(-1, 1, 1)).clamp_(max=1.0))

    def measure(self, whole: _Whole) -> None:
        """Squared errors of the best so far, measured."""
        self.least = torch.full_like(self.least, torch.inf)
        self._try(whole, self.best[None])

    def _try(self, seen: _Whole | _Peaks, shares: Tensor) -> None:
        """Some rows and shares (S, R, 1) at a time, so that what is computed for them stays in the cache."""
        dtype, half = float_dtype(seen.values), 2 ** (self.bits - 1)
        scales = self.scale(shares).to(dtype)
        inverses, start, memory = scales.reciprocal(), 0, torch.empty(0, 0)
        for part in row_chunks(seen.values):
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
                errors = seen.errors(levels, codes, half, self.level_offset).mul_(scales[tried, here].square())
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


def _repeated(rows: Tensor) -> bool:
    """Whether a fourth of the weights of some of ``rows`` (R, N) are equal to others of their row."""
    ordered = as_float(rows[:: max(1, len(rows) // 8), :_LONG]).sort(dim=1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).float().mean() > 0.25)


def _few(rows: Tensor) -> slice:
    """32 or more of many rows, evenly spread."""
    return slice(None, None, len(rows) // _FEW) if len(rows) >= 2 * _FEW else slice(None)


def _spacing(seen: _Whole | _Peaks) -> float:
    """Between shares from 1 to 0.15."""
    return (1 - _LOWEST) / (seen.counts[0] - 1)
