# SPDX-License-Identifier: Apache-2.0
"""A low-rank part of a weight in 16 bits beside its codes: the codes need not hold what a few directions explain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from .grid import QuantizedRows, add_low_rank_


_ROUNDS = 3  # of the two parts in turn; the first as in SVDQuant
_OVERSAMPLED, _POWERS = 8, 3  # columns more than the rank, and power iterations, of the random projection
_EXACT = 4  # times as many columns as are projected on, up to which all singular values are computed


def with_low_rank(weight: Tensor, rank: int, quantize: Callable[[Tensor], QuantizedRows]) -> QuantizedRows:
    """Codes and low rank of ``weight`` (O, ...) in turn, each fitted to what the other leaves.

    Args:
        weight: float32 or float64, output channels first.
        rank: 1 to the smaller of O and the weights of an output channel.
        quantize: Codes of a tensor of the shape of ``weight``.

    Returns:
        Codes alone where the factors do not fit float16.

    Source:
        Li et al., "SVDQuant"; in turn as Guo et al., "LQ-LoRA", section 3.1.
    """
    found, left = None, weight
    for _ in range(_ROUNDS):
        factors = low_rank(left.flatten(1), rank)
        if factors is None:
            return found or quantize(weight)
        residual = weight.clone()
        add_low_rank_(residual.view(len(weight), -1), -factors[0], factors[1])
        codes = quantize(residual)
        found = dataclasses.replace(codes, up=factors[0], down=factors[1])
        left = weight - codes.weight(weight.shape)
    return found  # type: ignore[return-value]  # there are rounds


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """The nearest matrix of ``rank`` to ``matrix`` (O, C): factors (O, rank) and (rank, C), float16, each with the
    square roots of the singular values.

    Large ones by a random projection with a fixed seed. The largest weight of every column of the first factor is
    positive, so that signs do not depend on the library. None if a factor is beyond float16.

    Source:
        Halko, Martinsson and Tropp, "Finding structure with randomness", algorithms 4.4 and 5.1.
    """
    largest = matrix.abs().max()
    scaled = (matrix / largest if largest > 0 else matrix).float()
    columns = rank + _OVERSAMPLED
    if min(scaled.shape) > _EXACT * columns:
        drawn = torch.randn(scaled.shape[1], columns, generator=torch.Generator().manual_seed(0))
        basis = scaled @ drawn.to(scaled.device)
        for _ in range(_POWERS):
            basis = scaled @ (scaled.t() @ torch.linalg.qr(basis).Q)
        basis = torch.linalg.qr(basis).Q
        left, values, right = torch.linalg.svd(basis.t() @ scaled, full_matrices=False)
        left = basis @ left
    else:
        left, values, right = torch.linalg.svd(scaled, full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    sign = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()
    root = (values[:rank] * largest).sqrt()
    up, down = (left * sign * root).half(), (right * sign.t() * root[:, None]).half()
    return (up, down) if bool(torch.isfinite(up).all() and torch.isfinite(down).all()) else None
