# SPDX-License-Identifier: Apache-2.0
"""Functions of singular values (Singular Value Scaling, tables 5 and 6), with the matching rule for biases.

A function takes singular values (r,), descending and not negative, and gives new ones; the factor of a bias vector
depends on its norm and on the largest singular value of the weight beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


_EPS = 1e-8  # inside the root of the bias rule


@dataclass(frozen=True)
class Scaling:
    """How one kind of scaling acts.

    Args:
        values: Singular values (r,) -> new ones; zero stays zero.
        bias: (norm of the bias, largest singular value of the weight or None) -> factor of the bias.
    """

    values: Callable[[Tensor], Tensor]
    bias: Callable[[float, float | None], float]


def _root_of_norm(norm: float, largest: float | None) -> float:
    return (norm + _EPS) ** -0.5


def _abslog(s: Tensor) -> Tensor:
    """|log s|, 0 at 0: not monotone, erases s = 1."""
    return torch.where(s > 0, s.clamp_min(torch.finfo(s.dtype).tiny).log().abs(), 0.0)


def _log_bias(norm: float, largest: float | None) -> float:
    return math.log1p(norm) / norm if norm else 1.0


def _orthogonal(s: Tensor) -> Tensor:
    return (s > 0).to(s.dtype)


def _spectral(s: Tensor) -> Tensor:
    largest = s.max() if len(s) else s.new_ones([])
    return s / largest if largest > 0 else s


SCALINGS: dict[str, Scaling] = {
    "sqrt": Scaling(torch.sqrt, _root_of_norm),  # the method's default: raises s < 1, lowers s > 1
    "log1p": Scaling(torch.log1p, _log_bias),
    "abslog": Scaling(_abslog, _root_of_norm),
    # Ablations of table 6, which do not train well:
    "orthogonal": Scaling(_orthogonal, lambda norm, largest: 1 / norm if norm else 1.0),
    "spectral": Scaling(_spectral, lambda norm, largest: 1 / largest if largest else 1.0),
    "square": Scaling(torch.square, lambda norm, largest: norm),
}
