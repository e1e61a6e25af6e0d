# SPDX-License-Identifier: Apache-2.0
"""Linear quantization (Q)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def round_to_codes(rows: Tensor, threshold: Tensor, bits: int, *, lowest: int | None = None) -> tuple[Tensor, Tensor]:
    """Nearest code (ties to even) with step ``threshold / (2**(bits-1) - 1)``, clamped.

    Args:
        rows: (R, N) float32 or float64.
        threshold: (R, 1), the largest value that is represented; rows where it is 0 get codes 0 and scale 1.
        bits: 2 to 8.
        lowest: Smallest code; None means ``-(2**(bits-1) - 1)``, symmetric to the largest.

    Returns:
        Codes (R, N) int8 and scale (R, 1) float32.
    """
    highest = 2 ** (bits - 1) - 1
    scale = (threshold / highest).float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = torch.round(rows / scale.to(rows.dtype)).clamp_(-highest if lowest is None else lowest, highest)
    return codes.to(torch.int8), scale


@dataclass(frozen=True)
class Linear:
    r"""Q: :math:`s = \max|w| / (2^{b-1} - 1)`, code = round(w / s); no value is clipped.

    Example:
        >>> codes, scale = Linear()(torch.tensor([[-1.0, 0.2, 0.51, 1.0]]), bits=3)
        >>> codes.tolist()
        [[-3, 1, 2, 3]]

    Source:
        Mordido et al., post-training compression of GANs, equation 12.
    """

    def __call__(self, rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return round_to_codes(rows, rows.abs().amax(dim=1, keepdim=True), bits)
