# SPDX-License-Identifier: Apache-2.0
"""The default: of the methods that need no calibration, the one that suits the number of bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..grid import QuantizedRows
from .codebook import Codebook
from .mse_clip import MSEClip


_FEW_BITS = 3


@dataclass(frozen=True)
class Auto:
    """``codebook`` up to 3 bits, where the place of every level counts; ``mse_clip`` above: evenly spaced levels lose
    little there, keep the outliers of layers with few weights, and are unpacked faster (docs/quantization.md has the
    figures).

    Example:
        >>> rows = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
        >>> Auto()(rows, bits=3).codebook is None, Auto()(rows, bits=4).codebook is None
        (False, True)
    """

    casts_rows: ClassVar[bool] = True

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        method = Codebook() if bits <= _FEW_BITS else MSEClip()
        return method(rows, bits, scale_dtype)

    @staticmethod
    def rotates(bits: int, denoiser: bool) -> bool:
        """Where ``hadamard`` is None."""
        return denoiser and bits == 3
