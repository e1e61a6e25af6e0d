# SPDX-License-Identifier: Apache-2.0
"""Linear quantization (Q): one step size that maps the largest weight to the largest code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..grid import QuantizedRows, round_to_codes


@dataclass(frozen=True)
class Linear:
    r"""Q: :math:`s = \max|w| / (2^{b-1} - 1)`, code = round(w / s); no value is clipped.

    Example:
        >>> Linear()(torch.tensor([[-1.0, 0.2, 0.51, 1.0]]), bits=3).codes.tolist()
        [[-3, 1, 2, 3]]

    Source:
        Mordido et al., post-training compression of GANs, equation 12.
    """

    preset: ClassVar[str] = "paper"

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        return round_to_codes(rows, rows.abs().amax(dim=1, keepdim=True), bits, scale_dtype=scale_dtype)

    def center(self, rows: Tensor) -> Tensor:
        """What an asymmetric quantizer subtracts from each row, (R, 1): the middle of its range."""
        return (rows.amax(dim=1, keepdim=True) + rows.amin(dim=1, keepdim=True)) / 2
