# SPDX-License-Identifier: Apache-2.0
"""Precision and recall by locality-sensitive hashing, alone and with nearest neighbours inside hash cells."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .accumulate import Accumulator
from .cells import covered_in_cells
from .hyperplanes import MAX_HYPERPLANES, default_hyperplanes, digest_of, draw_hyperplanes, hash_keys
from .inputs import MAX_SEED, as_matrix, check_finite, check_integer, check_same_dimension, for_distances, widened
from .keyed import KeyCounts, KeyedFeatures


MAX_STREAMED = 24  # bits that are kept while the number of samples is not known
_MANY_PAIRS = 10**8
_NAMES = ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall")
_CONDITIONS = ("num_hyperplanes", "draws", "k", "seed", "centered", "n_real", "n_generated", "dim")


class LSHPrecisionRecall(Accumulator):
    """`lsh_precision_recall` of features that arrive in batches, on one or several processes.

    Plain LSH (``k=None``) remembers the distinct keys and their counts, never the features: at most 2^H keys a draw.
    With ``k`` the features are kept. Any split into batches, objects and processes, in any order, gives the same
    values.

    Args:
        k: Neighbour that sets the radius, >= 1; None computes plain LSH only.
        num_hyperplanes: Bits of a key, 1 to 62; None: floor(log(n_real + n_generated)) when computed, of at most 24.
        draws: Number of draws, >= 1.
        seed: 0 to 2**32 - 1; draw i uses seed + i.
        log_base: Base of the logarithm for ``num_hyperplanes=None``, > 1.
        center: Vector (d,) that is subtracted from both sets, such as the mean of real features; None does not centre.

    Raises:
        TypeError: An option is of a wrong kind.
        ValueError: An option is out of range.

    Example:
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> metric = LSHPrecisionRecall(draws=2)
        >>> for batch in x.split(30):
        ...     metric = metric.update(real=batch, generated=batch)
        >>> metric.compute()["lsh_precision"]
        1.0

    Source:
        Mordido et al., equations 5-10.
    """

    def __init__(
        self,
        *,
        k: int | None = None,
        num_hyperplanes: int | None = None,
        draws: int = 10,
        seed: int = 0,
        log_base: float = 2,
        center: Any = None,
    ):
        super().__init__()
        if k is not None:
            check_integer("k", k, 1)
        if num_hyperplanes is not None:
            check_integer("num_hyperplanes", num_hyperplanes, 1, MAX_HYPERPLANES)
        check_integer("draws", draws, 1)
        check_integer("seed", seed, 0, MAX_SEED)
        default_hyperplanes(1, log_base)  # refuses a wrong base
        self.k, self.num_hyperplanes, self.draws, self.seed, self.log_base = k, num_hyperplanes, draws, seed, log_base
        self.center = None if center is None else torch.as_tensor(center).double().flatten()
        if self.center is not None and not torch.isfinite(self.center).all():
            raise ValueError("center has NaN or infinity; allowed is a vector (d,) of finite numbers.")
        self.summary = KeyCounts if k is None else KeyedFeatures
        self._bits = num_hyperplanes or MAX_STREAMED
        self._planes: tuple[Tensor, Tensor] | None = None

    def _check_foreign(self, where: str, held: Mapping[str, Any]) -> None:
        center = None if self.center is None else "a vector"
        for side, summary in held.items():
            if summary.planes != self._hyperplanes(summary.dim)[1]:
                raise ValueError(
                    f"{where}: {side} has keys of other hyperplanes; seed, draws, num_hyperplanes and center must be "
                    f"the same (here {self.seed}, {self.draws}, {self.num_hyperplanes} and {center})."
                )

    def _hyperplanes(self, dim: int) -> tuple[tuple[Tensor, Tensor], int]:
        """Normals and offsets for features of dimension ``dim``, and their digest."""
        if self._planes is None or self._planes[0].shape[-1] != dim:
            if self.center is not None and len(self.center) != dim:
                raise ValueError(f"center has {len(self.center)} entries; the features have dimension {dim}.")
            self._planes = draw_hyperplanes(dim, self._bits, self.draws, self.seed, self.center)
        return self._planes, digest_of(*self._planes)

    def _summarize(self, side: str, batch: Tensor) -> Any:
        return self._keyed(side, batch if self.k is None else batch.clone())  # the caller may reuse its buffer

    def _keyed(self, side: str, batch: Tensor) -> Any:
        planes, digest = self._hyperplanes(batch.shape[1])
        keys = hash_keys(batch, *planes, name=side)
        if self.k is None:
            return KeyCounts.of_keys(keys, batch.shape[1], digest)
        return KeyedFeatures(batch, keys, digest)

    def compute(self) -> dict[str, Any]:
        """Values and conditions as `lsh_precision_recall` returns them; more samples may be added afterwards.

        Raises:
            ValueError: A side has fewer than 2 samples, or so many that ``num_hyperplanes`` must be given.
        """
        counts = [self._count(side) for side in self.sides]
        for side, count in zip(self.sides, counts):
            if count < 2:
                raise ValueError(f"{side} has {count} rows; at least 2 are needed.")
        bits = self.num_hyperplanes or default_hyperplanes(sum(counts), self.log_base)
        if bits > self._bits:
            raise ValueError(f"{sum(counts)} samples need {bits} hyperplanes; pass num_hyperplanes={bits}.")
        per_draw = list(self._counted(bits) if self.k is None else self._with_neighbours(bits))
        result: dict[str, Any] = {}
        for name in per_draw[0]:
            values = [draw[name] for draw in per_draw]
            result[name] = statistics.fmean(values)
            result[f"{name}_std"] = statistics.stdev(values) if self.draws > 1 else 0.0
        conditions = (bits, self.draws, self.k, self.seed, self.center is not None, *counts, self._held["real"].dim)
        return result | dict(zip(_CONDITIONS, conditions))

    def _counted(self, bits: int) -> Iterable[dict[str, float]]:
        real, generated = (self._held[side] for side in self.sides)
        for draw in range(self.draws):
            precision, recall = generated.share_in(real, draw, bits), real.share_in(generated, draw, bits)
            yield {"lsh_precision": precision, "lsh_recall": recall}

    def _with_neighbours(self, bits: int) -> Iterable[dict[str, float]]:
        (real, real_keys), (generated, generated_keys) = (self._held[side].joined() for side in self.sides)
        sets = for_distances(widened(real), widened(generated))
        mask = (1 << bits) - 1
        for draw in range(self.draws):
            keys = real_keys[:, draw] & mask, generated_keys[:, draw].to(real.device) & mask
            yield precision_recall_of_keys(*sets, *keys, self.k)  # type: ignore[arg-type]  # not None with neighbours


def precision_recall_of_keys(
    real: Tensor, generated: Tensor, real_keys: Tensor, generated_keys: Tensor, k: int
) -> dict[str, float]:
    """LSH and LSH+KNN precision and recall of features (N, d), (M, d) for given keys (N,), (M,): equations 6 to 10."""
    _warn_if_skewed(real_keys, generated_keys)
    precision, recall = covered_in_cells(real, generated, real_keys, generated_keys, k)
    hits = (torch.isin(generated_keys, real_keys), torch.isin(real_keys, generated_keys), precision, recall)
    return {name: float(hit.double().mean()) for name, hit in zip(_NAMES, hits)}


def _warn_if_skewed(real_keys: Tensor, generated_keys: Tensor) -> None:
    """Warn where a quarter of all pairs shares a cell, so that hashing saves little, in sets for which that matters."""
    pairs = len(real_keys) * len(generated_keys)
    if pairs < _MANY_PAIRS:
        return
    keys, counts = real_keys.unique(return_counts=True)
    places = torch.searchsorted(keys, generated_keys[torch.isin(generated_keys, keys)])
    others = torch.bincount(places, minlength=len(keys))
    shared = int((counts * others).sum())
    if shared > pairs / 4:
        warnings.warn(
            f"lsh_precision_recall: {shared / pairs:.0%} of all pairs share a hash cell, so every draw takes about as "
            "long as exact nearest neighbours; the features are far from the origin in one direction. "
            "center='reference' (another metric), fewer draws or k=None are quicker.",
            stacklevel=2,
        )


def lsh_precision_recall(
    *,
    real: Any,
    generated: Any,
    k: int | None = 3,
    num_hyperplanes: int | None = None,
    draws: int = 10,
    seed: int = 0,
    log_base: float = 2,
    center: Any = None,
) -> dict[str, Any]:
    """Precision and recall by hashing features with random hyperplanes.

    Plain LSH precision is the share of generated samples whose cell holds a real sample. With nearest neighbours
    (LSH+KNN) a generated sample must also lie within the ball of a real sample of its cell, whose radius is the
    distance to its k-th nearest other real sample there. Recall exchanges the roles. All values are means over
    independent draws of the hyperplanes.

    Args:
        real: Features (N, d), arrays or tensors, any float dtype, N >= 2.
        generated: Features (M, d), M >= 2.
        k: Neighbour that sets the radius, >= 1; None computes plain LSH only.
        num_hyperplanes: Bits of a key, 1 to 62; None: floor(log(N + M)).
        draws: Number of draws, >= 1.
        seed: 0 to 2**32 - 1; draw i uses seed + i. Compare models with the same seed, so that they see the same
            hyperplanes.
        log_base: Base of that logarithm, > 1.
        center: "reference" subtracts the mean of ``real`` from both sets, a vector (d,) that vector; None, as in the
            paper, nothing. Centred cells are balanced: a different metric with lower values, for which fewer
            hyperplanes suit.

    Returns:
        ``lsh_precision``, ``lsh_recall``, ``lsh_knn_precision``, ``lsh_knn_recall`` in [0, 1], each also as
        ``NAME_std`` (sample standard deviation over the draws, 0.0 for one), and the conditions ``num_hyperplanes``,
        ``draws``, ``k``, ``seed``, ``centered``, ``n_real``, ``n_generated``, ``dim``.

    Raises:
        TypeError: An option is no integer or a set is no array.
        ValueError: A set is not (N, d), has fewer than 2 rows, NaN or infinity, or the dimensions differ; an option is
            out of range.

    Example:
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> result = lsh_precision_recall(real=x, generated=x, draws=2)
        >>> result["lsh_knn_precision"], result["num_hyperplanes"]
        (1.0, 7)

    Source:
        Mordido et al., equations 5-10; Algorithm 1 exchanges precision and recall for plain LSH, the equations are
        followed here.
    """
    real, generated = as_matrix("real", real), as_matrix("generated", generated)
    if num_hyperplanes is None:
        num_hyperplanes = min(default_hyperplanes(len(real) + len(generated), log_base), MAX_HYPERPLANES)
    if isinstance(center, str):
        if center != "reference":
            raise ValueError(f"center is {center!r}; allowed are None, 'reference' or a vector (d,).")
        check_finite("real", real)
        center = real.mean(dim=0, dtype=torch.float64)
    metric = LSHPrecisionRecall(
        k=k, num_hyperplanes=num_hyperplanes, draws=draws, seed=seed, log_base=log_base, center=center
    )
    check_same_dimension(real.shape[1], generated.shape[1])
    for side, features in (("real", real), ("generated", generated)):
        if len(features):
            metric._absorb(side, metric._keyed(side, features))
    return metric.compute()


def warn_if_unpaired(results: Iterable[Mapping[str, Any]]) -> None:
    """Warn where results of :func:`lsh_precision_recall` for several models have different conditions.

    Two models are comparable if they saw the same hyperplanes and the same numbers of samples.
    """
    results = list(results)
    for name in _CONDITIONS:
        values = {result.get(name) for result in results}
        if len(values) > 1:
            found = ", ".join(sorted(map(str, values)))
            warnings.warn(
                f"lsh_precision_recall: the results are not paired, {name} is {found}; "
                f"compare models with equal {name}, or differences may be those of the conditions.",
                stacklevel=2,
            )
