# SPDX-License-Identifier: Apache-2.0
"""What one side of an LSH comparison remembers: counted keys, or keys with their features."""

from __future__ import annotations

import torch
from torch import Tensor

from .accumulate import Rows


_PENDING = 2**16  # keys that are kept before they are counted
_TABLE_BITS = 20  # up to here a table of all keys is quicker than sorting them

Counts = tuple[Tensor, Tensor]  # distinct keys, sorted, and their counts, (u,) int64 each


class KeyCounts:
    """Distinct keys and their counts per draw; memory does not grow with repeated keys.

    Args:
        sizes: Distinct keys of every draw (draws,) int64.
        keys: The keys of all draws (sum of sizes,) int64, sorted within a draw.
        counts: How often each was seen.
        dim: Dimension of the features, a scalar.
        planes: Digest of the hyperplanes, a scalar.
    """

    fields = ("sizes", "keys", "counts", "dim", "planes")

    def __init__(self, sizes: Tensor, keys: Tensor, counts: Tensor, dim: Tensor | int, planes: Tensor | int):
        self._counted: list[Counts] = list(zip(keys.split(sizes.tolist()), counts.split(sizes.tolist())))
        self._pending: tuple[Tensor, ...] = ()
        self.dim, self.planes = int(dim), int(planes)
        self.count = int(self._counted[0][1].sum())

    @classmethod
    def of_keys(cls, keys: Tensor, dim: int, planes: int) -> KeyCounts:
        """From keys (n, draws) int64."""
        none = torch.zeros(0, dtype=torch.int64)
        result = cls(torch.zeros(keys.shape[1], dtype=torch.int64), none, none, dim, planes)
        result._pending, result.count = (keys.cpu(),), len(keys)
        return result

    def merged(self, other: KeyCounts) -> KeyCounts:
        """Counts of both."""
        result = object.__new__(KeyCounts)
        result.dim, result.planes, result.count = self.dim, self.planes, self.count + other.count
        result._counted, result._pending = list(self._counted), self._pending + other._pending
        if any(len(keys) for keys, _ in other._counted):
            result._counted = [_sum_by_key(*pair) for pair in zip(self._counted, other._counted)]
        if sum(map(len, result._pending)) > max(_PENDING, len(result._counted[0][0])):
            result.counted()
        return result

    def counted(self) -> list[Counts]:
        """Keys and counts of every draw."""
        if self._pending:
            new = torch.cat(self._pending)
            self._counted = [_sum_by_key(old, _count(new[:, i])) for i, old in enumerate(self._counted)]
            self._pending = ()
        return self._counted

    def share_in(self, other: KeyCounts, draw: int, bits: int) -> float:
        """Share of the samples whose key, of ``bits`` bits, ``other`` has too."""
        keys, counts = self.counted()[draw]
        mask = (1 << bits) - 1
        return int(counts[torch.isin(keys & mask, other.counted()[draw][0] & mask)].sum()) / self.count

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of ``fields``."""
        keys, counts = zip(*self.counted())
        sizes = torch.tensor([len(part) for part in keys])
        scalars = {"dim": torch.tensor(self.dim), "planes": torch.tensor(self.planes)}
        return {"sizes": sizes, "keys": torch.cat(keys), "counts": torch.cat(counts)} | scalars


class KeyedFeatures:
    """Features with their keys, in the order they came.

    Args:
        rows: Features (n, d).
        keys: Keys (n, draws) int64.
        planes: Digest of the hyperplanes, a scalar.
    """

    fields = ("rows", "keys", "planes")

    def __init__(self, rows: Tensor | Rows, keys: Tensor | Rows, planes: Tensor | int):
        self._rows, self._keys = (each if isinstance(each, Rows) else Rows(each) for each in (rows, keys))
        self.count, self.dim, self.planes = self._rows.count, self._rows.dim, int(planes)

    def merged(self, other: KeyedFeatures) -> KeyedFeatures:
        """Samples of both, on the device of ours."""
        return KeyedFeatures(self._rows.merged(other._rows), self._keys.merged(other._keys), self.planes)

    def joined(self) -> tuple[Tensor, Tensor]:
        """All features (n, d) and keys (n, draws)."""
        return self._rows.joined(), self._keys.joined()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of ``fields``."""
        return dict(zip(self.fields, self.joined())) | {"planes": torch.tensor(self.planes)}


def _count(keys: Tensor) -> Counts:
    """Distinct keys of (n,), sorted, and their counts."""
    bound = int(keys.max()) + 1
    if bound > 1 << _TABLE_BITS:
        return torch.unique(keys, return_counts=True)
    table = torch.bincount(keys, minlength=bound)
    unique = torch.nonzero(table).flatten()
    return unique, table[unique]


def _sum_by_key(*pairs: Counts) -> Counts:
    """Distinct keys of several (keys, counts), sorted, and the sums of their counts."""
    pairs = tuple(pair for pair in pairs if len(pair[0])) or pairs[:1]
    if len(pairs) == 1:
        return pairs[0]
    keys, inverse = torch.unique(torch.cat([keys for keys, _ in pairs]), return_inverse=True)
    return keys, torch.zeros_like(keys).index_add_(0, inverse, torch.cat([counts for _, counts in pairs]))
