# SPDX-License-Identifier: Apache-2.0
"""Kernel distance: unbiased squared MMD with a polynomial kernel (KID, on any features), at once and streaming."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .accumulate import Accumulator
from .inputs import MAX_SEED, as_features, check_integer


_BLOCK = 2**24  # kernel values held at a time

Kernel = Callable[[Tensor], Tensor]


def kernel_distance(
    *,
    real: Any,
    generated: Any,
    subsets: int = 100,
    subset_size: int | None = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 2020,
) -> dict[str, Any]:
    r"""Unbiased squared maximum mean discrepancy with a polynomial kernel; KID when the features are Inception's.

    :math:`\frac{\sum_{i \ne j} k(r_i, r_j)}{n (n-1)} + \frac{\sum_{i \ne j} k(g_i, g_j)}{m (m-1)}
    - \frac{2 \sum_{i, j} k(r_i, g_j)} {n m}`
    with :math:`k(x, y) = (\gamma x^\top y + c_0)^{degree}`, in float64, as mean over random subsets. `KernelDistance`
    computes the same from batches.

    The subsets are drawn without replacement by NumPy's ``RandomState(seed)``, in turn of ``generated`` and of
    ``real``: as torch-fidelity draws them from its first and second input. The default options are torch-fidelity's.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype.
        generated: Features (M, d).
        subsets: Number of subsets of each set, >= 1.
        subset_size: Samples in a subset, 2 to min(N, M). None: one estimate from the whole sets, which draws nothing;
            it takes O((N + M)^2 d) time, and neither ``subsets`` nor the order of the samples matters.
        degree: Of the polynomial, >= 1.
        gamma: Factor of the inner product, > 0; None: 1 / d.
        coef0: Constant of the polynomial, >= 0.
        seed: 0 to 2**32 - 1. Compare models with the same seed, so that they meet the same real subsets.

    Returns:
        ``kernel_distance``, slightly below 0 possible because it is unbiased, ``kernel_distance_std`` (population
        standard deviation over the subsets, 0.0 for one), and the conditions ``subsets``, ``subset_size``, ``degree``,
        ``gamma``, ``coef0``, ``seed``, ``n_real``, ``n_generated``, ``dim``.

    Raises:
        TypeError: A set is no array, or a count is no integer.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, or the dimensions differ; an option is
            out of range, ``subset_size`` exceeds a set.

    Example:
        >>> x = torch.tensor([[0.0, 0], [1, 0], [0, 1]])
        >>> round(kernel_distance(real=x, generated=x + 1, subset_size=None)["kernel_distance"], 6)
        13.194444

    Source:
        Binkowski et al., "Demystifying MMD GANs" (ICLR 2018), section 4; the estimator: Gretton et al., "A Kernel
        Two-Sample Test" (JMLR 2012), equation 3.
    """
    metric = KernelDistance(
        subsets=subsets, subset_size=subset_size, degree=degree, gamma=gamma, coef0=coef0, seed=seed
    )
    real, generated = as_features(real=real, generated=generated)
    return metric.update(real=real, generated=generated).compute()


class KernelDistance(Accumulator):
    """`kernel_distance` of features that arrive in batches, on one or several processes.

    Keeps all features, in the dtype they came in (half precision stays half), because the subsets are drawn at the
    end. The value depends on the order of the samples of each side and on nothing else: not on how they are split into
    batches. Merging appends the other's samples to ours, reducing appends in the order of the ranks; processes that
    hold consecutive shares of the samples therefore give, bit for bit, the value of one process.

    ``subsets``, ``subset_size``, ``degree``, ``gamma``, ``coef0`` and ``seed`` are those of `kernel_distance`.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> kid = KernelDistance(subsets=5, subset_size=20)
        >>> for batch in x.split(16):
        ...     kid = kid.update(real=batch, generated=batch + 1)
        >>> kid.compute() == kernel_distance(real=x, generated=x + 1, subsets=5, subset_size=20)
        True
    """

    def __init__(
        self,
        *,
        subsets: int = 100,
        subset_size: int | None = 1000,
        degree: int = 3,
        gamma: float | None = None,
        coef0: float = 1.0,
        seed: int = 2020,
    ) -> None:
        super().__init__()
        check_integer("kernel_distance: subsets", subsets, 1)
        check_integer("kernel_distance: degree", degree, 1)
        check_integer("kernel_distance: seed", seed, 0, MAX_SEED)
        if subset_size is not None:
            check_integer("kernel_distance: subset_size", subset_size, 2)
        if not (gamma is None or 0 < gamma < math.inf) or not 0 <= coef0 < math.inf:
            raise ValueError(f"kernel_distance: gamma is {gamma}, coef0 {coef0}; allowed are gamma > 0, coef0 >= 0.")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.degree, self.gamma, self.coef0 = degree, gamma, coef0

    def compute(self) -> dict[str, Any]:
        """See `kernel_distance`.

        Raises:
            ValueError: A side has fewer than ``subset_size`` samples (with None: fewer than 2).
        """
        counts = [self._count(side) for side in self.sides]
        least = self.subset_size or 2
        if min(counts) < least:
            raise ValueError(
                f"kernel_distance: real has {counts[0]} and generated {counts[1]} samples, subset_size is "
                f"{self.subset_size}; each set needs at least {least}. "
                + ("Use more samples." if min(counts) < 2 else f"Set subset_size to at most {min(counts)}.")
            )
        real, generated = (self._held[side].joined() for side in self.sides)
        gamma = 1 / real.shape[1] if self.gamma is None else float(self.gamma)
        values = self._estimates(real, generated.to(real.device), gamma)
        conditions = {"subsets": len(values), "subset_size": self.subset_size, "degree": self.degree, "gamma": gamma}
        conditions |= {"coef0": float(self.coef0), "seed": self.seed, "n_real": counts[0], "n_generated": counts[1]}
        return {
            "kernel_distance": float(np.mean(values)),
            "kernel_distance_std": float(np.std(values)),
            **conditions,
            "dim": real.shape[1],
        }

    def _estimates(self, real: Tensor, generated: Tensor, gamma: float) -> list[float]:
        """One estimate per pair of subsets."""

        def kernel(products: Tensor) -> Tensor:
            return products.mul_(gamma).add_(self.coef0).pow_(self.degree)

        if self.subset_size is None:
            return [_squared_mmd(real.double(), generated.double(), kernel)]
        random = np.random.RandomState(self.seed)
        values = []
        for _ in range(self.subsets):
            drawn = [  # generated first: it is torch-fidelity's input_1
                rows[torch.from_numpy(random.choice(len(rows), self.subset_size, replace=False)).to(rows.device)]
                for rows in (generated, real)
            ]
            values.append(_squared_mmd(drawn[1].double(), drawn[0].double(), kernel))
        return values


def _squared_mmd(real: Tensor, generated: Tensor, kernel: Kernel) -> float:
    """Unbiased estimate from (n, d) and (m, d) float64; ``kernel`` maps inner products to values, in place."""
    cross = _kernel_sum(real, generated, kernel) / (len(real) * len(generated))
    return _mean_of_pairs(real, kernel) + _mean_of_pairs(generated, kernel) - 2 * cross


def _mean_of_pairs(rows: Tensor, kernel: Kernel) -> float:
    """Mean kernel value of all pairs of different rows."""
    diagonal = float(kernel(rows.square().sum(dim=1)).sum())
    return (_kernel_sum(rows, rows, kernel) - diagonal) / (len(rows) * (len(rows) - 1))


def _kernel_sum(left: Tensor, right: Tensor, kernel: Kernel) -> float:
    blocks = left.split(max(_BLOCK // len(right), 1))
    return math.fsum(float(kernel(block @ right.t()).sum()) for block in blocks)
