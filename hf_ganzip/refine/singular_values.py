# SPDX-License-Identifier: Apache-2.0
"""Singular Value Scaling of one weight: same singular vectors, other singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import lookup
from .scalings import SCALINGS, Scaling


_GRAM_CONDITION = 1e-6  # least s_min / s_max for which squared singular values keep enough digits in float64
_GRAM_ROWS = 64  # least rows of a block
_FACTOR_RANGE = 100.0  # of f(s) / s, up to which float32 products keep the relative error near 1e-6


@dataclass(frozen=True)
class Scaled:
    """A scaled weight and its singular values before and after, (r,) float64, descending before."""

    weight: Tensor
    before: Tensor
    after: Tensor


def scale_singular_values(weight: Tensor, scaling: str | Scaling = "sqrt", *, rtol: float | None = None) -> Tensor:
    """Replace the singular values s of a weight by f(s).

    Args:
        weight: Linear weight (O, I), or convolution weight (O, I, ...), seen as a matrix with the output channels as
            rows.
        scaling: Key of ``SCALINGS``, or an object of that kind.
        rtol: Singular values up to ``rtol`` times the largest count as zero; None: all are scaled, as in the published
            code.

    Returns:
        Tensor of the same shape, dtype and device; computed in float64.

    Raises:
        ValueError: Fewer than two dimensions, or NaN or infinity.

    Example:
        >>> scale_singular_values(torch.diag(torch.tensor([4.0, 1.0])))
        tensor([[2., 0.],
                [0., 1.]])

    Source:
        Singular Value Scaling, equations 3-5.
    """
    return scaled(weight, scaling, rtol).weight


@torch.no_grad()
def scaled(weight: Tensor, scaling: str | Scaling = "sqrt", rtol: float | None = None) -> Scaled:
    """:func:`scale_singular_values` with the singular values.

    With M = U diag(s) V^T, M' = U diag(f(s) / s) U^T M: the eigenvectors of the smaller Gram matrix are enough, unless
    M is nearly singular; then a singular value decomposition is made.
    """
    function = lookup(SCALINGS, scaling, "scaling")
    if weight.ndim < 2:
        raise ValueError(f"the weight has shape {tuple(weight.shape)}; allowed are two or more dimensions.")
    matrix = weight.detach().flatten(1).double()
    # The sum is cheaper than a look at every entry; none of finite float32 overflows.
    if not math.isfinite(float(matrix.sum())):
        raise ValueError("the weight holds NaN or infinity.")
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, vectors = torch.linalg.eigh(_gram(wide), UPLO="L")
    squares, vectors = squares.flip(0).clamp_min(0), vectors.flip(1)
    if not len(squares) or squares[-1] < squares[0] * _GRAM_CONDITION**2 or squares[0] == 0:
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
        new = function.values(_truncated(s, rtol))
        found = (u * new) @ vh
    else:
        s = squares.sqrt()
        new = function.values(_truncated(s, rtol))
        exact = weight.detach().flatten(1)
        found = _product(vectors, new / s, exact if wide is matrix else exact.T)
    found = found if wide is matrix else found.T
    return Scaled(found.reshape(weight.shape).to(weight.dtype), s, new)


def _gram(matrix: Tensor) -> Tensor:
    """M M^T, whose lower half alone is computed and read: by blocks of rows."""
    rows = len(matrix)
    found = matrix.new_empty(rows, rows)
    step = max(_GRAM_ROWS, -(-rows // 4))
    for start in range(0, rows, step):
        end = min(start + step, rows)
        torch.mm(matrix[start:end], matrix[:end].T, out=found[start:end, :end])
    return found


def _product(vectors: Tensor, factors: Tensor, matrix: Tensor) -> Tensor:
    """V diag(factors) V^T M; in float32 where the weight has no more digits and the factors do not cost any."""
    narrow = matrix.dtype != torch.float64 and float(factors.max()) <= _FACTOR_RANGE * float(factors.min())
    dtype = torch.float32 if narrow else torch.float64
    vectors, factors = vectors.to(dtype), factors.to(dtype)
    return ((vectors * factors) @ vectors.T) @ matrix.to(dtype)


def _truncated(s: Tensor, rtol: float | None) -> Tensor:
    return s if rtol is None or not len(s) else torch.where(s > rtol * s[0], s, 0.0)


def condition_number(s: Tensor) -> float:
    """Largest by smallest singular value; infinite for singular weights."""
    largest, smallest = float(s.max()), float(s.min())
    return largest / smallest if smallest > 0 else float("inf")
