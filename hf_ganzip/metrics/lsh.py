# SPDX-License-Identifier: Apache-2.0
"""Precision and recall by locality-sensitive hashing, alone and with nearest neighbours inside hash cells."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cells import Cells, covered_in_cells
from .inputs import as_features, check_k


MAX_HYPERPLANES = 62
_NAMES = ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall")


def default_hyperplanes(n_real: int, n_generated: int) -> int:
    """floor(log2(n_real + n_generated)).

    Example:
        >>> default_hyperplanes(5000, 5000)
        13
    """
    return (n_real + n_generated).bit_length() - 1


def hyperplanes(dim: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normals (count, dim) ~ N(0, I) and offsets (count,) ~ U(0, 1), float64; plane j depends on (seed, j, dim) only."""
    normals = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((count, dim))
    offsets = np.random.Generator(np.random.Philox(key=[seed, 1])).random(count)
    return normals, offsets


def hash_keys(features: Tensor, normals: Any, offsets: Any) -> Tensor:
    """Keys (N,) int64 of features (N, d): bit j is 1 where ``normals[j] . x + offsets[j] >= 0``; projected in float64.

    Example:
        >>> hash_keys(torch.tensor([[1.0, 1], [-1, 1], [0, -1]]), torch.eye(2), torch.zeros(2)).tolist()
        [3, 2, 1]
    """
    normals = torch.as_tensor(normals, dtype=torch.float64, device=features.device)
    offsets = torch.as_tensor(offsets, dtype=torch.float64, device=features.device)
    weights = 2 ** torch.arange(len(normals), device=features.device)
    keys = [
        (torch.addmm(offsets, block.double(), normals.t()) >= 0).long().mul_(weights).sum(dim=1)
        for block in features.split(8192)
    ]
    return torch.cat(keys)


def precision_recall_of_keys(
    real: Tensor, generated: Tensor, real_keys: Tensor, generated_keys: Tensor, k: int | None
) -> dict[str, float]:
    """The metrics for given keys (N,), (M,): equations 6 and 7, and with ``k`` also 8 to 10."""
    values = {
        "lsh_precision": torch.isin(generated_keys, real_keys),
        "lsh_recall": torch.isin(real_keys, generated_keys),
    }
    if k is not None:
        real_cells, generated_cells = Cells.of(real_keys), Cells.of(generated_keys)
        values["lsh_knn_precision"] = covered_in_cells(real, generated, real_cells, generated_cells, k)
        values["lsh_knn_recall"] = covered_in_cells(generated, real, generated_cells, real_cells, k)
    return {name: float(hits.double().mean()) for name, hits in values.items()}


def lsh_precision_recall(
    *, real: Any, generated: Any, k: int | None = 3, num_hyperplanes: int | None = None, draws: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Precision and recall by hashing features with random hyperplanes.

    Plain LSH precision is the share of generated samples whose cell holds a real sample. With nearest neighbours (LSH+KNN) a
    generated sample must also lie within the ball of a real sample of its cell, whose radius is the distance to its k-th nearest
    other real sample there. Recall exchanges the roles. All values are means over independent draws of the hyperplanes; features
    are not centred.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1; None computes plain LSH only.
        num_hyperplanes: Bits of a key, 1 to 62; None: floor(log2(N + M)).
        draws: Number of draws, >= 1.
        seed: Draw i uses seed + i. Compare models with the same seed, so that they see the same hyperplanes.

    Returns:
        ``lsh_precision``, ``lsh_recall``, ``lsh_knn_precision``, ``lsh_knn_recall`` in [0, 1], each also as ``NAME_std`` (sample
        standard deviation over the draws, 0.0 for one), and the conditions ``num_hyperplanes``, ``draws``, ``k``, ``seed``,
        ``n_real``, ``n_generated``, ``dim``.

    Raises:
        TypeError: ``k`` is no integer or a set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, or the dimensions differ; an option is out of range.

    Example:
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> result = lsh_precision_recall(real=x, generated=x, draws=2)
        >>> result["lsh_knn_precision"], result["num_hyperplanes"]
        (1.0, 7)

    Source:
        Mordido et al., equations 5-10; Algorithm 1 exchanges precision and recall for plain LSH, the equations are followed here.
    """
    if k is not None:
        check_k(k)
    real, generated = as_features(real=real, generated=generated)
    count = default_hyperplanes(len(real), len(generated)) if num_hyperplanes is None else num_hyperplanes
    if not 1 <= count <= MAX_HYPERPLANES:
        raise ValueError(f"num_hyperplanes is {count}; allowed are 1 to {MAX_HYPERPLANES}, or None.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; allowed are 1 and more.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed are 0 and more.")
    per_draw = []
    for draw in range(draws):
        planes = hyperplanes(real.shape[1], count, seed + draw)
        keys = hash_keys(real, *planes), hash_keys(generated, *planes)
        per_draw.append(precision_recall_of_keys(real, generated, *keys, k))
    result: dict[str, Any] = {}
    for name in _NAMES[: 2 if k is None else 4]:
        values = [row[name] for row in per_draw]
        result[name] = statistics.fmean(values)
        result[f"{name}_std"] = statistics.stdev(values) if draws > 1 else 0.0
    conditions = {"num_hyperplanes": count, "draws": draws, "k": k, "seed": seed}
    return result | conditions | {"n_real": len(real), "n_generated": len(generated), "dim": real.shape[1]}
