# SPDX-License-Identifier: Apache-2.0
"""Outlier channel splitting (S+Q): input channels with the largest weights are halved and doubled before rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..grid import QuantizedRows
from .linear import Linear


@dataclass(frozen=True)
class OutlierSplitting:
    r"""S+Q: split the input channel with the largest :math:`|w|` in two halves, ceil(ratio * channels) times; quantize.

    The copies are stored as further input channels with the indices of their sources; dequantizing adds them back to
    the sources, so that the layer keeps its shape and its computation.

    Args:
        expand_ratio: Splits per input channel.
        grid_aware: Halves are w/2 - s/4 and w/2 + s/4, which round to sums that are as exact as w itself, instead of
            w/2 twice.

    Example:
        >>> quantized = OutlierSplitting()(torch.tensor([[4.0, 0.9]]), bits=3)  # the scale is 2/3 instead of 4/3
        >>> quantized.codes.tolist(), quantized.sources.tolist()
        ([[3, 1, 3]], [0])

    Source:
        Zhao et al., "Improving neural network quantization without retraining using outlier channel splitting"; used
        by Mordido et al.
    """

    preset: ClassVar[str] = "paper"
    expand_ratio: float = 0.01
    grid_aware: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.expand_ratio <= 1:
            raise ValueError(f"outlier_splitting: expand_ratio is {self.expand_ratio}; allowed are numbers in (0, 1].")

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        return self.quantize_channels(rows[:, :, None], bits, len(rows), scale_dtype)

    def quantize_channels(
        self, weight: Tensor, bits: int, rows: int, scale_dtype: torch.dtype = torch.float32
    ) -> QuantizedRows:
        """Quantize ``weight`` (O, I, K) with ``rows`` scales, 1 or O; codes (rows, O (I + n) K / rows)."""
        halves, sources = split_channels(weight, self.expand_ratio)
        quantized = Linear()(halves.reshape(rows, -1), bits, scale_dtype)
        if self.grid_aware:
            scale = quantized.scale.to(weight.dtype).view(-1, 1, 1)
            aware, _ = split_channels(weight, self.expand_ratio, quarter_step=scale / 4)
            highest = 2 ** (bits - 1) - 1
            codes = torch.round(aware / scale).clamp_(-highest - 1, highest).reshape(rows, -1)
            quantized = QuantizedRows(codes.to(torch.int8), quantized.scale)
        return QuantizedRows(quantized.codes, quantized.scale, sources=sources.to(torch.int16))


def split_channels(
    weight: Tensor, expand_ratio: float = 0.01, quarter_step: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Split ceil(expand_ratio * I) input channels of ``weight`` (O, I, K), always the one with the largest magnitude.

    Args:
        weight: (O, I, K).
        expand_ratio: Splits per input channel.
        quarter_step: A quarter of the quantizer's step, (O, 1, 1) or a number: the halves of non-zero weights are
            shifted by it.

    Returns:
        Split weights (O, I + n, K), copies last, and the original channel of every copy (n,) int64.
    """
    channels = weight.shape[1]
    plain = weight  # which channel is split does not depend on the shift
    sources: list[int] = []
    for _ in range(math.ceil(expand_ratio * channels)):
        chosen = int(plain.abs().amax(dim=(0, 2)).argmax())
        sources.append(chosen if chosen < channels else sources[chosen - channels])
        plain = torch.cat([plain, plain[:, chosen : chosen + 1] / 2], dim=1)
        plain[:, chosen] /= 2
        shift = torch.where(weight[:, chosen : chosen + 1] != 0, quarter_step, 0.0)
        half = weight[:, chosen : chosen + 1] / 2
        weight = torch.cat([weight, half + shift], dim=1)
        weight[:, chosen : chosen + 1] = half - shift
    return weight, torch.tensor(sources, dtype=torch.int64)
