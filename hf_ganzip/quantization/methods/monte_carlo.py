# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo quantization (P+Q): codes are how often equidistant samples of their distribution hit each weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..grid import QuantizedRows, stored_scale


@dataclass(frozen=True)
class MonteCarlo:
    r"""P+Q: :math:`p_i = |w_i| / S`, N equidistant samples, randomly shifted; code = sign(w) * hits, scale = S / N.

    The hits are floor or ceil of :math:`N p_i` and sum to N, so that the L1 norm of a row stays; weights without a hit
    are pruned. N is the largest number for which no weight gets more than :math:`2^{b-1} - 1` hits. At 2 bits, this
    loses more than setting all weights to zero would.

    Args:
        seed: Of the shifts, one for each row; every tensor draws from the same seed.
        samples_per_weight: N / number of weights instead of the largest N; hits beyond the largest code are clipped.

    Example:
        >>> rows = torch.tensor([[0.5, -0.25, 0.125, 0.125]])
        >>> MonteCarlo(samples_per_weight=1)(rows, bits=3).codes.abs().sum().item()
        4

    Source:
        Mordido et al., "Monte Carlo Gradient Quantization" and section 4.1 of the compression paper, as read in their
        text: no code was published.
    """

    preset: ClassVar[str] = "paper"
    seed: int = 0
    samples_per_weight: float | None = None

    def __post_init__(self) -> None:
        if self.samples_per_weight is not None and not self.samples_per_weight > 0:
            raise ValueError(
                f"monte_carlo: samples_per_weight is {self.samples_per_weight}; allowed are numbers above 0."
            )

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        highest = 2 ** (bits - 1) - 1
        values = rows.double().abs()
        total = values.sum(dim=1, keepdim=True)
        shift = torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        edges = values.cumsum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))
        edges[:, -1] = 1
        shift = shift.to(rows.device)
        if self.samples_per_weight is None:
            samples = _most_samples(edges, shift, highest, total / values.amax(dim=1, keepdim=True).clamp_min(1e-300))
        else:
            samples = torch.full_like(total, max(1, round(self.samples_per_weight * rows.shape[1])))
        hits = _hits(edges, shift, samples).clamp_(max=highest)
        hits = torch.where(total > 0, hits, torch.zeros_like(hits))
        return QuantizedRows((hits * rows.sign()).to(torch.int8), stored_scale(total / samples, scale_dtype))


def _hits(edges: Tensor, shift: Tensor, samples: Tensor) -> Tensor:
    """Number of sample points (j + shift) / samples between neighbouring edges, (R, N)."""
    upper = torch.ceil(samples * edges - shift)
    return torch.diff(upper, dim=1, prepend=torch.zeros_like(upper[:, :1]))


def _most_samples(edges: Tensor, shift: Tensor, highest: int, ratio: Tensor) -> Tensor:
    """The largest N of each row (R, 1) whose hits stay within ``highest``; ``ratio``: the sum over the largest."""
    samples = torch.floor((highest + 0.5) * ratio).clamp_min(1)
    while True:
        above = _hits(edges, shift, samples).amax(dim=1, keepdim=True) > highest
        if not above.any():
            return samples
        samples = torch.where(above, torch.minimum(torch.floor(samples * 0.999), samples - 1).clamp_min(1), samples)
