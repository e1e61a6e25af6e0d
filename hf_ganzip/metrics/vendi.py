# SPDX-License-Identifier: Apache-2.0
"""Vendi score: how many different samples a set is worth, at once and streaming."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .accumulate import Accumulator
from .inputs import as_features, as_matrix


_BLOCK = 8192  # rows widened to float64 at a time


def vendi_score(*, real: Any, generated: Any, q: float = 1.0) -> dict[str, float]:
    r"""Vendi score of both sets, with the cosine of features as similarity.

    :math:`\exp(H_q(\lambda))`, where :math:`\lambda` are the eigenvalues of the similarities over n
    (non-negative, of sum 1) and :math:`H_q` is the entropy of order q: 1 if all samples are alike, n if all
    are orthogonal. A set is looked at by itself: a generator of diverse noise scores high, so that
    ``vendi_score`` says something beside ``vendi_score_real`` and a measure of quality only. `VendiScore`
    computes the same from batches.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype; no row may be zero.
        generated: Features (M, d).
        q: Order of the entropy, > 0; ``math.inf`` looks at the largest eigenvalue alone. Small orders count rare
            samples more.

    Returns:
        ``vendi_score`` of the generated samples and ``vendi_score_real``, both >= 1, and the condition ``q``.

    Raises:
        TypeError: A set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, a row of zeros, NaN or infinity, or the dimensions
            differ; ``q`` is out of range.

    Example:
        >>> result = vendi_score(real=torch.eye(4), generated=torch.eye(4)[[0, 0, 1, 1]])
        >>> {name: round(value, 6) for name, value in result.items()}
        {'vendi_score': 2.0, 'vendi_score_real': 4.0, 'q': 1.0}

    Source:
        Friedman and Dieng, "The Vendi Score" (TMLR 2023), definition 3.1 and section 3.4 (the dual form); the orders:
        Pasarkar and Dieng, "Cousins of the Vendi Score" (AISTATS 2024).
    """
    metric = VendiScore(q=q)
    real, generated = as_features(real=real, generated=generated)
    return metric.update(real=real, generated=generated).compute()


class Directions:
    """Count and summed outer products (d, d) of the rows of one side, each of length 1, float64."""

    fields = ("count", "products")

    def __init__(self, count: Any, products: Tensor) -> None:
        if products.ndim != 2 or products.shape[0] != products.shape[1]:
            raise ValueError(f"products has shape {tuple(products.shape)}; allowed is (d, d).")
        self.count, self.products, self.dim = int(count), products, len(products)

    @classmethod
    def of(cls, rows: Tensor) -> Directions:
        products = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for block in rows.split(_BLOCK):
            block = block.double()
            block = block / torch.linalg.vector_norm(block, dim=1, keepdim=True)
            products.addmm_(block.t(), block)
        return cls(len(rows), products)

    def merged(self, other: Directions) -> Directions:
        return Directions(self.count + other.count, self.products + other.products.to(self.products.device))

    def tensors(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count), "products": self.products}


class VendiScore(Accumulator):
    """`vendi_score` of features that arrive in batches, on one or several processes.

    Keeps (d, d) sums of each side in float64, whose eigenvalues are those of the similarities of all samples: memory
    O(d^2), whatever their number. Batches, processes and order move the value only by float64 rounding. ``q``:
    `vendi_score`.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> score = VendiScore().update(real=x)
        >>> for batch in x.split(16):
        ...     score = score.update(generated=batch)
        >>> result = score.compute()
        >>> abs(result["vendi_score"] - result["vendi_score_real"]) < 1e-9
        True
    """

    summary = Directions

    def __init__(self, *, q: float = 1.0) -> None:
        super().__init__()
        if not q > 0:
            raise ValueError(f"vendi_score: q is {q}; allowed are positive numbers and math.inf.")
        self.q = float(q)

    def update(self, **batches: Any) -> Any:
        """As `Accumulator.update`; a row of zeros, which points nowhere, is refused, too."""
        for side, batch in batches.items():
            rows = as_matrix(side, batch)
            if zeros := int((rows == 0).all(dim=1).sum()):
                raise ValueError(f"vendi_score: {side} has {zeros} rows of zeros, which point nowhere; remove them.")
        return super().update(**batches)

    def compute(self) -> dict[str, float]:
        """See `vendi_score`.

        Raises:
            ValueError: A side has no samples.
        """
        counts = {side: self._count(side) for side in self.sides}
        if not all(counts.values()):
            raise ValueError(f"vendi_score: real has {counts['real']} and generated {counts['generated']} samples.")
        scores = {side: self._score(self._held[side]) for side in self.sides}
        return {"vendi_score": scores["generated"], "vendi_score_real": scores["real"], "q": self.q}

    def _score(self, side: Directions) -> float:
        shares = torch.linalg.eigvalsh(side.products / side.count).clamp_min(0)
        shares = shares[shares > 0]
        if self.q == 1:
            return math.exp(-float((shares * shares.log()).sum()))
        if self.q == math.inf:
            return 1 / float(shares.max())
        return float((self.q * shares.log()).logsumexp(dim=0).div(1 - self.q).exp())
