# SPDX-License-Identifier: Apache-2.0
"""Analytical clipping (C+Q): clip where the expected squared error of a Gaussian or Laplace density is least."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..chunks import CHUNK, by_rows
from ..grid import QuantizedRows, round_to_codes


CONSTANTS = ("paper", "published", "exact")
_HISTOGRAM_BINS = 101


@functools.cache
def clipping_constants(bits: int, family: str = "paper") -> tuple[float, float]:
    r"""Optimal thresholds of a unit density: (Gaussian, in standard deviations; Laplace, in mean absolute deviations).

    With noise :math:`c \alpha^2` inside the threshold :math:`\alpha`, the optimum solves
    :math:`2 (\phi(\alpha) - \alpha Q(\alpha)) = c \alpha` (Gaussian) and :math:`e^{-\alpha} = c \alpha` (Laplace).

    Args:
        bits: 2 to 8.
        family: "published" (ACIQ, :math:`c = 1 / (3 \cdot 4^b)`), "paper" (the constants of the outlier channel
            splitting code that the paper builds on, :math:`c = 8 (2^{b-1} - 1) / (3 \cdot 8^b)`), or "exact" (least
            true error of :math:`2^b - 1` levels).

    Example:
        >>> [round(c, 4) for c in clipping_constants(4, "published")]
        [2.5591, 5.0286]
    """
    if family == "exact":
        return _exact_threshold(bits, _gauss_moments), _exact_threshold(bits, _laplace_moments)
    noise = 1 / (3 * 4**bits) if family == "published" else 8 * (2 ** (bits - 1) - 1) / (3 * 8**bits)
    gauss = _bisect(lambda a: 2 * (_phi(a) - a * _tail(a)) - noise * a)
    laplace = _bisect(lambda a: math.exp(-a) - noise * a)
    return gauss, laplace


@dataclass(frozen=True)
class ACIQ:
    """C+Q: clip at the analytical threshold of the closer of two densities, then quantize linearly.

    The defaults are the paper's setting, which follows the code of outlier channel splitting.

    Args:
        constants: "paper", "published" or "exact"; see :func:`clipping_constants`.
        sigma: Estimate of the Gaussian's standard deviation: "range" (from max - min; heavy tails inflate it) or "std".
        selection: How the density is chosen: "histogram" (estimated error on 101 bins) or "error" (true error on the
            weights).
        clamp: "asymmetric" also uses the code ``-2**(bits-1)``; "symmetric" does not.

    Example:
        >>> quantized = ACIQ()(torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)), bits=2)
        >>> sorted(quantized.codes.unique().tolist())
        [-2, -1, 0, 1]

    Source:
        Banner et al., "Post training 4-bit quantization" (ACIQ); Zhao et al., "Outlier channel splitting"; used by
        Mordido et al.
    """

    preset: ClassVar[str] = "paper"
    constants: str = "paper"
    sigma: str = "range"
    selection: str = "histogram"
    clamp: str = "asymmetric"

    def __post_init__(self) -> None:
        for name, allowed in {
            "constants": CONSTANTS,
            "sigma": ("range", "std"),
            "selection": ("histogram", "error"),
            "clamp": ("asymmetric", "symmetric"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"aciq: {name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}.")

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        return round_to_codes(
            rows, self.threshold(rows, bits), bits, lowest=self.lowest(bits), scale_dtype=scale_dtype
        )

    def lowest(self, bits: int) -> int:
        """Smallest code."""
        highest = 2 ** (bits - 1) - 1
        return -highest - 1 if self.clamp == "asymmetric" else -highest

    def threshold(self, rows: Tensor, bits: int) -> Tensor:
        """Clipping threshold of each row, (R, 1) in the dtype of ``rows``; max|w| where the densities degenerate."""
        gauss_constant, laplace_constant = clipping_constants(bits, self.constants)
        largest = rows.abs().amax(dim=1, keepdim=True)
        mean = rows.mean(dim=1, keepdim=True)
        gauss = gauss_constant * self._standard_deviation(rows)
        laplace = laplace_constant * (rows - mean).abs().mean(dim=1, keepdim=True)
        if self.selection == "error":
            error = functools.partial(
                _rounding_error, rows, torch.ones_like(rows), bits=bits, lowest=self.lowest(bits)
            )
        else:
            centres, mass = _histogram(rows, largest)
            error = functools.partial(_estimated_error, centres, mass, bits=bits, lowest=self.lowest(bits))
        threshold = torch.where(error(gauss) < error(laplace), gauss, laplace)
        usable = torch.isfinite(threshold) & (threshold > 0)
        return torch.where(usable, threshold, largest)

    def _standard_deviation(self, rows: Tensor) -> Tensor:
        if self.sigma == "std":
            return rows.std(dim=1, keepdim=True, correction=0)
        count = rows.shape[1]
        spread = rows.amax(dim=1, keepdim=True) - rows.amin(dim=1, keepdim=True)
        constant = 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4)))
        return spread * (constant / math.sqrt(2 * math.log(count))) if count > 1 else spread * 0


def _histogram(rows: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Bin centres (R, 101) and their shares (R, 101) over [-largest, largest] of each row."""
    bins = _HISTOGRAM_BINS
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    counts = by_rows(lambda part, own: _counts(part, own, bins), rows, safe)
    centres = (torch.arange(bins, device=rows.device, dtype=rows.dtype) + 0.5) * (2 / bins) - 1
    return centres * largest, counts.to(rows.dtype) / rows.shape[1]


def _counts(rows: Tensor, largest: Tensor, bins: int) -> Tensor:
    """Histograms (R, bins) of rows (R, N) over [-largest, largest]."""
    counts = torch.zeros(len(rows) * bins, dtype=torch.int64, device=rows.device)
    first = torch.arange(len(rows), device=rows.device)[:, None] * bins
    for part in rows.split(CHUNK, dim=1):
        index = ((part / largest + 1) * (bins / 2)).long().clamp_(0, bins - 1).add_(first)
        counts += torch.bincount(index.flatten(), minlength=len(counts))
    return counts.view(len(rows), bins)


def _rounding_error(values: Tensor, weights: Tensor, threshold: Tensor, *, bits: int, lowest: int) -> Tensor:
    """Weighted squared error (R, 1) of quantizing ``values`` (R, M) at ``threshold`` (R, 1)."""
    rounded = round_to_codes(values, threshold, bits, lowest=lowest)
    error = values - rounded.codes.to(values.dtype) * rounded.scale.to(values.dtype)
    return (error.square() * weights).sum(dim=1, keepdim=True)


def _estimated_error(values: Tensor, mass: Tensor, threshold: Tensor, *, bits: int, lowest: int) -> Tensor:
    """Clipping error of the bins beyond the threshold plus rounding error of those within, (R, 1)."""
    beyond = values.abs() - threshold
    clipped = (beyond.clamp_min(0).square() * mass).sum(dim=1, keepdim=True)
    inside = torch.where(beyond > 0, torch.zeros_like(mass), mass)
    return clipped + _rounding_error(values, inside, threshold, bits=bits, lowest=lowest)


# -- constants --------------------------------------------------------------------------------------------------------


def _phi(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


def _bisect(function: Callable[[float], float], low: float = 1e-9, high: float = 40.0) -> float:
    """Root of a function that falls through zero between ``low`` and ``high``."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def _gauss_moments(x: float) -> tuple[float, float, float]:
    """Integrals of (1, t, t^2) times the standard Gaussian density over t > x >= 0."""
    return _tail(x), _phi(x), x * _phi(x) + _tail(x)


def _laplace_moments(x: float) -> tuple[float, float, float]:
    """Integrals of (1, t, t^2) times the unit Laplace density over t > x >= 0."""
    tail = math.exp(-x) / 2
    return tail, tail * (x + 1), tail * (x * x + 2 * x + 2)


def _exact_threshold(bits: int, moments: Callable[[float], tuple[float, float, float]]) -> float:
    """Threshold with the least true squared error of the symmetric quantizer with ``2**bits - 1`` levels."""
    highest = 2 ** (bits - 1) - 1

    def error(threshold: float) -> float:
        step = threshold / highest
        total = 0.0
        for code in range(highest + 1):
            start = moments(max(code - 0.5, 0.0) * step)
            end = moments((code + 0.5) * step) if code < highest else (0.0, 0.0, 0.0)
            zeroth, first, second = (a - b for a, b in zip(start, end))
            total += second - 2 * code * step * first + (code * step) ** 2 * zeroth
        return total

    low, high = 0.1, 20.0
    for _ in range(100):  # ternary search: the error has one minimum
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if error(left) < error(right) else (left, high)
    return (low + high) / 2
