# SPDX-License-Identifier: Apache-2.0
"""Inception score of any classifier's logits, at once and streaming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .accumulate import Accumulator
from .inputs import MAX_SEED, check_integer


def inception_score(logits: Any, *, splits: int = 10, shuffle: bool = True, seed: int = 2020) -> dict[str, Any]:
    r"""Inception score: how sure a classifier is of each image, and how much the images differ in class.

    :math:`\exp\left(\frac{1}{n} \sum_i \mathrm{KL}(p(y | x_i) \,\|\, p(y))\right)`,
    :math:`p(y) = \frac{1}{n} \sum_i p(y | x_i)`, in float64 from logarithms, as mean over splits of the samples.
    `InceptionScore` computes the same from batches. It looks at generated images only: a generator that repeats one
    image per class scores best.

    Args:
        logits: Unnormalized log-probabilities (N, classes) of the generated images, array or tensor, any float dtype.
        splits: Number of consecutive parts, 1 to N, that are scored on their own; part i holds the samples from
            ``i * N // splits`` to before ``(i + 1) * N // splits``.
        shuffle: Permute the samples first, by NumPy's ``RandomState(seed)``. Without, samples ordered by class score
            too low.
        seed: Of the permutation, 0 to 2**32 - 1; the default options are torch-fidelity's.

    Returns:
        ``inception_score`` in [1, classes], ``inception_score_std`` (population standard deviation over the splits),
        and the conditions ``splits``, ``shuffle`` (1 or 0), ``seed`` and ``n_generated``.

    Raises:
        TypeError: ``logits`` is no array, or an option is no integer.
        ValueError: ``logits`` is not (N, classes), has NaN or infinity, or fewer rows than ``splits``; an option is
            out of range.

    Example:
        >>> sure_and_diverse = 100 * torch.eye(4).repeat(5, 1)
        >>> round(inception_score(sure_and_diverse, splits=1)["inception_score"], 6)
        4.0

    Source:
        Salimans et al., "Improved Techniques for Training GANs" (NeurIPS 2016), section 4.
    """
    return InceptionScore(splits=splits, shuffle=shuffle, seed=seed).update(logits=logits).compute()


class InceptionScore(Accumulator):
    """`inception_score` of logits that arrive in batches, on one or several processes: ``update(logits=batch)``.

    Keeps all logits in the dtype they came in, because the permutation needs their number. The value depends on their
    order and on nothing else; merging and reducing append as those of `KernelDistance` do.

    ``splits``, ``shuffle`` and ``seed`` are those of `inception_score`.

    Example:
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> score = InceptionScore(splits=2)
        >>> for batch in x.split(16):
        ...     score = score.update(logits=batch)
        >>> score.compute() == inception_score(x, splits=2)
        True
    """

    sides = ("logits",)

    def __init__(self, *, splits: int = 10, shuffle: bool = True, seed: int = 2020) -> None:
        super().__init__()
        check_integer("inception_score: splits", splits, 1)
        check_integer("inception_score: seed", seed, 0, MAX_SEED)
        self.splits, self.shuffle, self.seed = splits, shuffle, seed

    def compute(self) -> dict[str, Any]:
        """See `inception_score`.

        Raises:
            ValueError: There are fewer samples than ``splits``.
        """
        count = self._count("logits")
        if count < self.splits:
            raise ValueError(
                f"inception_score: logits has {count} rows; splits={self.splits} needs at least that many. Use more "
                "samples or fewer splits."
            )
        logits = self._held["logits"].joined()
        if self.shuffle:
            order = np.random.RandomState(self.seed).permutation(count)
            logits = logits[torch.from_numpy(order).to(logits.device)]
        bounds = [i * count // self.splits for i in range(self.splits + 1)]
        scores = [_score(logits[start:end].double()) for start, end in zip(bounds, bounds[1:])]
        return {
            "inception_score": float(np.mean(scores)),
            "inception_score_std": float(np.std(scores)),
            "splits": self.splits,
            "shuffle": int(self.shuffle),
            "seed": self.seed,
            "n_generated": count,
        }


def _score(logits: Tensor) -> float:
    log_p = logits.log_softmax(dim=1)
    log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))  # a class that nobody expects stays finite
    return math.exp(float((log_p.exp() * (log_p - log_mean)).sum(dim=1).mean()))
