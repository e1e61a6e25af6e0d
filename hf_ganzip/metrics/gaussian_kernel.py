# SPDX-License-Identifier: Apache-2.0
"""Maximum mean discrepancy with a Gaussian kernel (CMMD on CLIP features), at once and streaming."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .accumulate import Accumulator
from .inputs import as_features


_BLOCK = 2**24  # kernel values held at a time


def gaussian_kernel_distance(
    *, real: Any, generated: Any, sigma: float = 10.0, scale: float = 1000.0, normalize: bool = True
) -> dict[str, Any]:
    r"""Squared maximum mean discrepancy with a Gaussian kernel; CMMD when the features are CLIP's.

    :math:`s \left(\overline{k(r, r')} + \overline{k(g, g')} - 2 \overline{k(r, g)}\right)`, means over all pairs,
    equal ones included (the estimator of least variance, biased upwards by less than 2 s / n), with
    :math:`k(x, y) = \exp(-\lVert x - y \rVert^2 / 2 \sigma^2)`, in float64. No normality is assumed, and the value
    hardly depends on the number of samples. `GaussianKernelDistance` computes the same from batches.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype.
        generated: Features (M, d).
        sigma: Width of the kernel, > 0.
        scale: Factor s of the result, > 0.
        normalize: Give every feature vector length 1 first, as CLIP's embeddings have it in CMMD; no row may be zero
            then.

    Returns:
        ``gaussian_kernel_distance`` >= 0 up to rounding, and the conditions ``sigma``, ``scale``, ``normalize``,
        ``n_real``, ``n_generated``, ``dim``.

    Raises:
        TypeError: A set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, a row of zeros (with ``normalize``), NaN or infinity,
            or the dimensions differ; an option is out of range.

    Example:
        >>> x = torch.eye(3)
        >>> result = gaussian_kernel_distance(real=x[:2], generated=x[1:], sigma=1, scale=1)
        >>> round(result["gaussian_kernel_distance"], 6)  # (1 - exp(-1)) / 2
        0.31606

    Source:
        Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation" (CVPR 2024),
        section 5; the estimator: Gretton et al., "A Kernel Two-Sample Test" (JMLR 2012), equation 5.
    """
    metric = GaussianKernelDistance(sigma=sigma, scale=scale, normalize=normalize)
    real, generated = as_features(real=real, generated=generated)
    return metric.update(real=real, generated=generated).compute()


class GaussianKernelDistance(Accumulator):
    """`gaussian_kernel_distance` of features that arrive in batches, on one or several processes.

    Keeps all features, in the dtype they came in. Batches, processes and order move the value only by float64 rounding.
    ``sigma``, ``scale`` and ``normalize`` are those of `gaussian_kernel_distance`.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> distance = GaussianKernelDistance()
        >>> for batch in x.split(16):
        ...     distance = distance.update(real=batch, generated=batch + 1)
        >>> distance.compute() == gaussian_kernel_distance(real=x, generated=x + 1)
        True
    """

    def __init__(self, *, sigma: float = 10.0, scale: float = 1000.0, normalize: bool = True) -> None:
        super().__init__()
        for name, value in (("sigma", sigma), ("scale", scale)):
            if not 0 < value < math.inf:
                raise ValueError(f"gaussian_kernel_distance: {name} is {value}; allowed are positive numbers.")
        self.sigma, self.scale, self.normalize = float(sigma), float(scale), bool(normalize)

    def compute(self) -> dict[str, Any]:
        """See `gaussian_kernel_distance`.

        Raises:
            ValueError: A side has no samples, or a row of zeros.
        """
        counts = [self._count(side) for side in self.sides]
        if not all(counts):
            raise ValueError(f"gaussian_kernel_distance: real has {counts[0]} and generated {counts[1]} samples.")
        real, generated = (self._rows(side) for side in self.sides)
        generated = generated.to(real.device)
        value = self._mean(real, real) + self._mean(generated, generated) - 2 * self._mean(real, generated)
        conditions = {"sigma": self.sigma, "scale": self.scale, "normalize": self.normalize}
        conditions |= {"n_real": counts[0], "n_generated": counts[1], "dim": real.shape[1]}
        return {"gaussian_kernel_distance": self.scale * value, **conditions}

    def _rows(self, side: str) -> Tensor:
        rows: Tensor = self._held[side].joined().double()
        if not self.normalize:
            return rows
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        if bool((lengths == 0).any()):
            raise ValueError(
                f"gaussian_kernel_distance: {side} has {int((lengths == 0).sum())} rows of zeros, which have no "
                "length 1; remove them, or set normalize=False."
            )
        return rows / lengths

    def _mean(self, left: Tensor, right: Tensor) -> float:
        """Mean kernel value of all pairs."""
        norms = right.square().sum(dim=1)
        total = []
        for block in left.split(max(_BLOCK // len(right), 1)):
            squares = torch.addmm(norms, block, right.t(), alpha=-2).add_(block.square().sum(dim=1, keepdim=True))
            total.append(float(squares.clamp_min_(0).mul_(-0.5 / self.sigma**2).exp_().sum()))
        return math.fsum(total) / (len(left) * len(right))
