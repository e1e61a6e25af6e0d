# SPDX-License-Identifier: Apache-2.0
"""Realism of single samples: how far inside the balls of real samples they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cells import Cells, cell_pairs, cell_radii, match
from .inputs import as_features, check_k
from .knn import neighbour_radii
from .lsh import default_hyperplanes, hash_keys, hyperplanes


METHODS = ("lsh_knn", "knn")
_EPSILON = 1e-5


def realism_scores(
    *,
    real: Any,
    generated: Any,
    k: int = 3,
    method: str = "lsh_knn",
    num_hyperplanes: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    r"""Realism of every generated sample: :math:`\max_r \mathrm{radius}(r) / \lVert g - r \rVert` over real samples r.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1.
        method: "lsh_knn" compares with real samples of the same hash cell only; an empty cell gives 0. "knn" compares with all, after
            radii above the median were set to 0, so that outliers do not make samples look real.
        num_hyperplanes: For "lsh_knn"; None: floor(log2(N + M)).
        seed: Seed of the hyperplanes.

    Returns:
        Scores (M,) float64, >= 0; at least 1 where the sample counts as covered (1e-5 is added to distances).

    Raises:
        ValueError: As in :func:`.lsh_precision_recall`, or an unknown method.

    Example:
        >>> real = [[0.0, 0], [2, 0], [0, 2]]
        >>> realism_scores(real=real, generated=[[1.0, 0], [0, 8]], k=1, method="knn").round(2).tolist()
        [2.0, 0.33]

    Source:
        Mordido et al., equation 11; "knn": Kynkaanniemi et al., equation 2 (whose code gives the square).
    """
    check_k(k)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(METHODS)}.")
    real, generated = as_features(real=real, generated=generated)
    if method == "knn":
        scores = _knn_realism(real, generated, k)
    else:
        count = default_hyperplanes(len(real), len(generated)) if num_hyperplanes is None else num_hyperplanes
        planes = hyperplanes(real.shape[1], count, seed)
        scores = realism_in_cells(real, generated, hash_keys(real, *planes), hash_keys(generated, *planes), k)
    return scores.cpu().numpy()


def realism_in_cells(real: Tensor, generated: Tensor, real_keys: Tensor, generated_keys: Tensor, k: int) -> Tensor:
    """Realism (M,) float64 for given keys."""
    real_cells, generated_cells = Cells.of(real_keys), Cells.of(generated_keys)
    in_real, in_generated = match(real_cells, generated_cells)
    radii = cell_radii(real, real_cells, in_real, k)
    scores = torch.zeros(len(generated), dtype=torch.float64, device=generated.device)
    for r, g in zip(in_real.split(64), in_generated.split(64)):
        rows, columns = cell_pairs(generated_cells, g, real_cells, r)
        distances = (generated[rows].double() - real[columns].double()).norm(dim=1)
        ratio = radii[columns].sqrt() / (distances + _EPSILON)
        scores.scatter_reduce_(0, rows, ratio, "amax")
    return scores


def _knn_realism(real: Tensor, generated: Tensor, k: int) -> Tensor:
    radii = neighbour_radii(real, k).sqrt()
    radii = torch.where(radii <= radii.quantile(0.5), radii, torch.zeros_like(radii))
    blocks = [
        (radii / (torch.cdist(block.double(), real.double()) + _EPSILON)).amax(dim=1) for block in generated.split(512)
    ]
    return torch.cat(blocks)
