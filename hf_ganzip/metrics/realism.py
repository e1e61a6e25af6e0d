# SPDX-License-Identifier: Apache-2.0
"""Realism of single samples: how far inside the balls of real samples they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cells import Cells
from .hyperplanes import MAX_HYPERPLANES, default_hyperplanes, draw_hyperplanes, hash_keys
from .inputs import MAX_SEED, as_features, check_integer
from .knn import Balls, Points


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
    real_labels: Any = None,
    generated_labels: Any = None,
) -> np.ndarray:
    r"""Realism of every generated sample: :math:`\max_r \mathrm{radius}(r) / \lVert g - r \rVert` over real samples r.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1.
        method: "lsh_knn" compares with real samples of the same hash cell only; an empty cell gives 0. "knn" compares
            with all, after radii above the median were set to 0, so that outliers do not make samples look real.
        num_hyperplanes: For "lsh_knn"; None: floor(log2(N + M)).
        seed: Seed of the hyperplanes, 0 to 2**32 - 1.
        real_labels: Class ids (N,); with ``generated_labels`` a sample is compared with real samples of its class only.
        generated_labels: Class ids (M,); a class without real samples gives 0.

    Returns:
        Scores (M,) float64, >= 0; at least 1 where the sample counts as covered, up to the 1e-5 that is added to
        distances.

    Raises:
        ValueError: As in :func:`.lsh_precision_recall`, an unknown method, or labels that do not fit.

    Example:
        >>> real = [[0.0, 0], [2, 0], [0, 2]]
        >>> realism_scores(real=real, generated=[[1.0, 0], [0, 8]], k=1, method="knn").round(2).tolist()
        [2.0, 0.33]

    Source:
        Mordido et al., equation 11; "knn": Kynkaanniemi et al., equation 2 (whose code gives the square).
    """
    check_integer("k", k, 1)
    check_integer("seed", seed, 0, MAX_SEED)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(METHODS)}.")
    real, generated = as_features(real=real, generated=generated)
    labels = _labels(real_labels, len(real), generated_labels, len(generated), real.device)
    keys = tuple(torch.zeros(len(features), dtype=torch.int64, device=real.device) for features in (real, generated))
    if method == "lsh_knn":
        count = default_hyperplanes(len(real) + len(generated)) if num_hyperplanes is None else num_hyperplanes
        check_integer("num_hyperplanes", count, 1, MAX_HYPERPLANES)
        planes = draw_hyperplanes(real.shape[1], count, 1, seed)
        keys = tuple(hash_keys(features, *planes)[:, 0] for features in (real, generated))
    scores = torch.zeros(len(generated), dtype=torch.float64, device=real.device)
    for label in labels[1][torch.isin(labels[1], labels[0])].unique():
        real_index, generated_index = (torch.nonzero(side == label).flatten() for side in labels)
        cells = Cells.of(keys[0][real_index], keys[1][generated_index])
        for in_real, in_generated in cells.members():
            chosen = generated_index[in_generated]
            points = Points(real, real_index[in_real]), Points(generated, chosen)
            scores[chosen] = _realism(*points, k, prune=method == "knn")
    return scores.cpu().numpy()


def _labels(real: Any, n_real: int, generated: Any, n_generated: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Class ids (N,), (M,) int64; all 0 where none are given."""
    if (real is None) != (generated is None):
        raise ValueError("real_labels and generated_labels belong together; one of them is missing.")
    if real is None:
        real, generated = (torch.zeros(count, dtype=torch.int64, device=device) for count in (n_real, n_generated))
    labels = torch.as_tensor(real, device=device), torch.as_tensor(generated, device=device)
    for name, values, count in zip(("real_labels", "generated_labels"), labels, (n_real, n_generated)):
        if values.shape != (count,):
            raise ValueError(f"{name} has shape {tuple(values.shape)}; allowed is ({count},), one class id a sample.")
    return labels


def _realism(real: Points, generated: Points, k: int, prune: bool) -> Tensor:
    """Scores (m,) float64 of the generated points against all real points given."""
    radii = Balls(real, k).exact_radii(torch.arange(len(real), device=real.features.device)).sqrt()
    if prune:
        radii = torch.where(radii <= radii.quantile(0.5), radii, 0)
    offset = real.offset.double()
    scores = []
    for part in generated.parts():
        queries = generated.rows(part).double() - offset
        ratios = [
            (radii[other] / (torch.cdist(queries, real.rows(other).double() - offset) + _EPSILON)).amax(dim=1)
            for other in real.parts()
        ]
        scores.append(torch.stack(ratios).amax(dim=0))
    return torch.cat(scores)
