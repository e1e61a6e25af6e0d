# SPDX-License-Identifier: Apache-2.0
"""Random hyperplanes and the keys that they give to features."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import check_finite, matmul_dtype


MAX_HYPERPLANES = 62  # bits of a non-negative int64
_BLOCK = 2**22  # elements of features that are projected at once
_WIDTH = 16  # matrix products with this multiple of columns are up to twice as fast on CPUs


def default_hyperplanes(count: int, log_base: float = 2) -> int:
    """floor(log(count)) to the base ``log_base``, at least 1; exact for integer bases.

    Example:
        >>> default_hyperplanes(10_000), default_hyperplanes(10_000, 10), default_hyperplanes(100_000)
        (13, 4, 16)

    Raises:
        ValueError: ``log_base`` <= 1.

    Source:
        Mordido et al., Algorithm 1: floor(log n) with n = |real| + |generated|; base 2 agrees with the paper's tables.
    """
    if not log_base > 1:
        raise ValueError(f"log_base is {log_base}; allowed are numbers above 1, such as 2, 10 or math.e.")
    bits, reached = 0, log_base
    while reached <= count:
        bits, reached = bits + 1, reached * log_base
    return max(bits, 1)


def hyperplanes(dim: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normals (count, dim) ~ N(0, I), offsets (count,) ~ U(0, 1), float64; plane j depends on (seed, j, dim) only."""
    normals = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((count, dim))
    offsets = np.random.Generator(np.random.Philox(key=[seed, 1])).random(count)
    return normals, offsets


def draw_hyperplanes(
    dim: int, count: int, draws: int, seed: int, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Normals (draws, count, dim) and offsets (draws, count), float64; draw i has seed + i.

    ``center`` (dim,) moves the planes instead of the features: x . h + b becomes (x - center) . h + b.
    """
    planes = [hyperplanes(dim, count, seed + draw) for draw in range(draws)]
    normals, offsets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*planes))
    if center is not None:
        offsets = offsets - normals @ center.double().cpu()
    return normals, offsets


def digest_of(normals: Tensor, offsets: Tensor) -> int:
    """63-bit digest of hyperplanes: equal for equal ones."""
    data = hashlib.sha256(normals.numpy().tobytes() + offsets.numpy().tobytes()).digest()
    return int.from_bytes(data[:8], "little") >> 1


def hash_keys(features: Tensor, normals: Any, offsets: Any, name: str = "features") -> Tensor:
    """Keys (N, ...) int64 of features (N, d) for planes (..., H, d) and (..., H), one key for each leading index.

    Bit j is 1 where ``normals[j] . x + offsets[j] >= 0``. Projections in float32 are faster; those within their
    rounding of zero are made again in float64, so that no batch split or number of threads moves a bit.

    Raises:
        ValueError: NaN or infinity, reported under ``name``.

    Example:
        >>> hash_keys(torch.tensor([[1.0, 1], [-1, 1], [0, -1]]), torch.eye(2), torch.zeros(2)).tolist()
        [3, 2, 1]

    Source:
        Mordido et al., equation 5.
    """
    normals = torch.as_tensor(normals, dtype=torch.float64, device=features.device)
    offsets = torch.as_tensor(offsets, dtype=torch.float64, device=features.device)
    *draws, bits, dim = normals.shape
    planes, shifts = normals.reshape(-1, dim), offsets.flatten()
    dtype = matmul_dtype(features)
    padding = -len(planes) % _WIDTH
    matrix, vector = F.pad(planes.to(dtype).t(), (0, padding)).contiguous(), F.pad(shifts.to(dtype), (0, padding))
    # Partial sums of a random projection stay below 5 |x|, each of the d additions rounds one of them.
    relative = (3 * dim + 16) * torch.finfo(dtype).eps
    absolute = 4 * torch.finfo(dtype).eps * (1 + float(shifts.abs().max()))
    powers = 2 ** torch.arange(bits, device=features.device)
    keys = torch.empty(len(features), len(planes) // bits, dtype=torch.int64, device=features.device)
    rows = max(1, _BLOCK // dim)
    for start in range(0, len(features), rows):
        block = features[start : start + rows].to(dtype)
        projections = torch.addmm(vector, block, matrix)[:, : len(planes)]
        norms = torch.linalg.vector_norm(block, dim=1)
        if not torch.isfinite(norms.sum()):
            check_finite(name, features)
        sides = projections >= 0
        if dtype == torch.float32:
            row, plane = torch.nonzero(projections.abs_() <= (relative * norms + absolute)[:, None], as_tuple=True)
            for r, p in zip(row.split(rows), plane.split(rows)):
                exact = (features[start + r].double() * planes[p]).sum(dim=1) + shifts[p]
                sides[r, p] = exact >= 0
        keys[start : start + rows] = (sides.view(len(block), -1, bits) * powers).sum(dim=2)
    return keys.view(len(features), *draws)
