# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of Gaussian fits (FID, on any features)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .inputs import as_features


def frechet_distance(*, real: Any, generated: Any, allow_singular: bool = False) -> dict[str, float]:
    r"""Frechet distance between Gaussians fitted to two feature sets; FID when the features are Inception's.

    :math:`\lVert \mu_r - \mu_g \rVert^2 + \mathrm{tr}(\Sigma_r + \Sigma_g - 2 (\Sigma_r^{1/2} \Sigma_g \Sigma_r^{1/2})^{1/2})`, in
    float64, by symmetric eigenvalues.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype.
        generated: Features (M, d).
        allow_singular: Accept fewer than d + 1 samples, where the covariance is singular and the value is biased upwards.

    Returns:
        ``frechet_distance`` >= 0.

    Raises:
        TypeError: A set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, the dimensions differ, or there are too few samples.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> round(frechet_distance(real=x, generated=x + 1)["frechet_distance"], 6)
        3.0

    Source:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017), equation 6.
    """
    real, generated = as_features(real=real, generated=generated)
    smallest, dim = min(len(real), len(generated)), real.shape[1]
    if smallest <= dim and not allow_singular:
        raise ValueError(
            f"frechet_distance: real has {len(real)} and generated {len(generated)} samples of dimension {dim}; more than "
            f"{dim} of each are needed. Use more samples, or allow_singular=True for a biased value."
        )
    (real_mean, real_cov), (generated_mean, generated_cov) = _moments(real), _moments(generated)
    values, vectors = torch.linalg.eigh(real_cov)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ generated_cov @ root).clamp_min(0).sqrt().sum()
    distance = (real_mean - generated_mean).square().sum() + real_cov.trace() + generated_cov.trace() - 2 * cross
    return {"frechet_distance": max(float(distance), 0.0)}


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d), float64."""
    features = features.double()
    return features.mean(dim=0), torch.cov(features.t())
