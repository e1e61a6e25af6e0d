# SPDX-License-Identifier: Apache-2.0
"""Synthetic features with the statistics of a ReLU layer of a classifier, for benchmarks and figures."""

from __future__ import annotations

import torch
from torch import Tensor


def relu_features(count: int, dim: int, seed: int, *, shift: float = -0.3, narrow: float = 1.0) -> Tensor:
    """Features (count, dim) float32, >= 0: ReLU of 64 Gaussian factors plus an offset per coordinate.

    Args:
        count: Samples.
        dim: Dimension; the mixing matrix depends on it only, so sets of any seed share one distribution.
        seed: Of the factors.
        shift: Added before the ReLU; -0.3 leaves about two thirds of the values 0, large ones make all values positive
            and alike (a skewed distribution of hash keys).
        narrow: Spread of the factors; below 1 a set of less variety.
    """
    shared = torch.Generator().manual_seed(99)
    mixing, offset = torch.randn(64, dim, generator=shared), 0.15 * torch.randn(dim, generator=shared)
    factors = narrow * torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))
    return torch.relu_(factors @ (mixing / 8) + (offset + shift))
