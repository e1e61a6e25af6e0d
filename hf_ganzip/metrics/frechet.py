# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of Gaussian fits (FID, on any features), at once and streaming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .accumulate import Accumulator
from .inputs import as_features, as_matrix


_BLOCK = 8192  # rows widened to float64 at a time


def frechet_distance(*, real: Any, generated: Any, allow_singular: bool = False) -> dict[str, float]:
    r"""Frechet distance between Gaussians fitted to two feature sets; FID when the features are Inception's.

    :math:`\lVert \mu_r - \mu_g \rVert^2 + \mathrm{tr}(\Sigma_r + \Sigma_g
    - 2 (\Sigma_r^{1/2} \Sigma_g \Sigma_r^{1/2})^{1/2})`, in float64, by symmetric eigenvalues. `FrechetDistance`
    computes the same from batches.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype.
        generated: Features (M, d).
        allow_singular: Accept fewer than d + 1 samples, where the covariance is singular and the value is biased
            upwards.

    Returns:
        ``frechet_distance`` >= 0.

    Raises:
        TypeError: A set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, the dimensions differ, or there are
            too few samples.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> round(frechet_distance(real=x, generated=x + 1)["frechet_distance"], 6)
        3.0

    Source:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017), equation 6.
    """
    real, generated = as_features(real=real, generated=generated)
    return FrechetDistance(allow_singular=allow_singular).update(real=real, generated=generated).compute()


def frechet_to(real: Any) -> Callable[[Any], float]:
    """:func:`frechet_distance` to one set as a function of the other, which may be singular: for many sets.

    Of fewer samples than dimensions it takes the eigenvalues of their Gram matrix, which are the same and fewer.
    """
    moments = Moments.of(as_matrix("real", real))
    covariance = moments.covariance()
    root: list[Tensor] = []

    def distance(generated: Any) -> float:
        rows = as_matrix("generated", generated).to(moments.mean.device, torch.float64)
        mean = rows.mean(dim=0)
        centred = (rows - mean) / (len(rows) - 1) ** 0.5
        if len(rows) < moments.dim:
            product = centred @ covariance @ centred.t()
        else:
            root[:] = root or [_root(covariance)]
            product = root[0] @ (centred.t() @ centred) @ root[0]
        cross = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum()
        shift = (moments.mean - mean).square().sum()
        return max(float(shift + covariance.trace() + centred.square().sum() - 2 * cross), 0.0)

    return distance


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.t()


class Moments:
    """Count, mean (d,) and centred scatter (d, d) of one side, float64."""

    fields = ("count", "mean", "scatter")

    def __init__(self, count: Any, mean: Tensor, scatter: Tensor) -> None:
        if scatter.shape != mean.shape * 2:
            raise ValueError(
                f"mean {tuple(mean.shape)} and scatter {tuple(scatter.shape)}; allowed are (d,) and (d, d)."
            )
        self.count, self.mean, self.scatter = int(count), mean, scatter
        self.dim = len(mean)

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        total = None
        for block in rows.split(_BLOCK):
            block = block.to(torch.float64, copy=True)
            mean = block.mean(dim=0)
            block -= mean
            moments = cls(len(block), mean, block.t() @ block)
            total = moments if total is None else total.merged(moments)
        return total  # type: ignore[return-value]  # of one row or more

    def merged(self, other: Moments) -> Moments:
        """Chan et al.: both scatters plus that between the two means; nothing is squared before it is centred."""
        count = self.count + other.count
        delta = other.mean.to(self.mean.device) - self.mean
        scatter = self.scatter + other.scatter.to(self.scatter.device)
        scatter.addr_(delta, delta, alpha=self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), scatter)

    def tensors(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    def covariance(self) -> Tensor:
        return self.scatter / (self.count - 1)


class FrechetDistance(Accumulator):
    """`frechet_distance` of features that arrive in batches, on one or several processes.

    Keeps count, mean and centred scatter of each side in float64: memory O(d^2), whatever the number of samples.
    Batches are widened in blocks. How the samples are split into batches and processes, and in which order they come,
    moves the value only by float64 rounding. ``allow_singular`` is that of `frechet_distance`.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> fid = FrechetDistance().update(real=x)
        >>> for batch in x.split(16):
        ...     fid = fid.update(generated=batch + 1)
        >>> round(fid.compute()["frechet_distance"], 6)
        3.0

    Source:
        Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance" (1983), the pairwise update.
    """

    summary = Moments

    def __init__(self, *, allow_singular: bool = False) -> None:
        super().__init__()
        self.allow_singular = allow_singular

    def compute(self) -> dict[str, float]:
        """The distance of all that was given so far; more may be given afterwards.

        Returns:
            ``frechet_distance`` >= 0.

        Raises:
            ValueError: A side has fewer than d + 1 samples (with ``allow_singular``: fewer than 2).
        """
        counts = [self._count(side) for side in self.sides]
        dim = max((summary.dim for summary in self._held.values()), default=0)
        least = 2 if self.allow_singular else max(dim + 1, 2)
        if min(counts) < least:
            raise ValueError(
                f"frechet_distance: real has {counts[0]} and generated {counts[1]} samples of dimension {dim}; more "
                f"than {least - 1} of each are needed. Use more samples"
                + ("." if self.allow_singular else ", or allow_singular=True for a biased value.")
            )
        real, generated = (self._held[side] for side in self.sides)
        real_cov, generated_cov = real.covariance(), generated.covariance().to(real.mean.device)
        root = _root(real_cov)
        cross = torch.linalg.eigvalsh(root @ generated_cov @ root).clamp_min(0).sqrt().sum()
        shift = (real.mean - generated.mean.to(real.mean.device)).square().sum()
        return {"frechet_distance": max(float(shift + real_cov.trace() + generated_cov.trace() - 2 * cross), 0.0)}
