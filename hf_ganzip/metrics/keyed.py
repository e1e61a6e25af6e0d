# SPDX-License-Identifier: Apache-2.0
"""What one side of an LSH comparison remembers: counted keys, or keys with their features."""

from __future__ import annotations

import torch
from torch import Tensor

from .gather import gather_rows


_PENDING = 2**16  # keys that are kept before they are counted
_TABLE_BITS = 20  # up to here a table of all keys is quicker than sorting them


class KeyCounts:
    """Distinct keys and their counts per draw; memory does not grow with repeated keys."""

    def __init__(self, draws: int):
        self.total = 0
        self._counted = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)) for _ in range(draws)]
        self._pending: list[Tensor] = []

    def add(self, keys: Tensor, features: Tensor) -> None:
        """Add keys (n, draws) int64; features are not kept."""
        self.total += len(keys)
        self._pending.append(keys.cpu())
        if sum(map(len, self._pending)) > max(_PENDING, len(self._counted[0][0])):
            self.counted()

    def counted(self) -> list[tuple[Tensor, Tensor]]:
        """Per draw the distinct keys, sorted, and their counts, (u,) int64 each."""
        if self._pending:
            new = torch.cat(self._pending)
            self._counted = [
                _sum_by_key((keys, counts), _count(new[:, i])) for i, (keys, counts) in enumerate(self._counted)
            ]
            self._pending = []
        return self._counted

    def share_in(self, other: KeyCounts, draw: int, bits: int) -> float:
        """Share of the samples whose key, of ``bits`` bits, ``other`` has too."""
        keys, counts = self.counted()[draw]
        mask = (1 << bits) - 1
        return int(counts[torch.isin(keys & mask, other.counted()[draw][0] & mask)].sum()) / self.total

    def merge(self, other: KeyCounts) -> None:
        """Add the counts of ``other``."""
        self.total += other.total
        self._counted = [_sum_by_key(mine, theirs) for mine, theirs in zip(self.counted(), other.counted())]

    def reduce(self) -> None:
        """Replace the counts by those of all processes."""
        self._counted = [_sum_by_key(tuple(gather_rows(torch.stack(pair, 1)).unbind(1))) for pair in self.counted()]
        self.total = int(self._counted[0][1].sum())

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`load_state_dict` restores the counts."""
        return {f"{name}.{i}": x for i, pair in enumerate(self.counted()) for name, x in zip(("keys", "counts"), pair)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the counts by saved ones."""
        self._pending = []
        self._counted = [(state[f"keys.{i}"], state[f"counts.{i}"]) for i in range(len(self._counted))]
        self.total = int(self._counted[0][1].sum())


class KeyedFeatures:
    """Features with their keys, in the order they came."""

    def __init__(self):
        self._keys: list[Tensor] = []
        self._features: list[Tensor] = []

    @property
    def total(self) -> int:
        """Number of samples."""
        return sum(map(len, self._keys))

    def add(self, keys: Tensor, features: Tensor) -> None:
        """Add keys (n, draws) int64 and features (n, d), which are not copied."""
        self._keys.append(keys)
        self._features.append(features)

    def joined(self) -> tuple[Tensor, Tensor]:
        """All keys (N, draws) and features (N, d), on the device of the first."""
        if len(self._keys) > 1:
            device = self._features[0].device
            self._keys = [torch.cat([keys.to(device) for keys in self._keys])]
            self._features = [torch.cat([features.to(device) for features in self._features])]
        return self._keys[0], self._features[0]

    def merge(self, other: KeyedFeatures) -> None:
        """Append the samples of ``other``."""
        self._keys, self._features = self._keys + other._keys, self._features + other._features

    def reduce(self) -> None:
        """Replace the samples by those of all processes, which must all have some."""
        self._keys, self._features = ([gather_rows(rows)] for rows in self.joined())

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`load_state_dict` restores the samples."""
        return dict(zip(("keys", "features"), self.joined())) if self._keys else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the samples by saved ones."""
        self._keys, self._features = ([state[name]] if state else [] for name in ("keys", "features"))


def _count(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct keys of (n,), sorted, and their counts."""
    bound = int(keys.max()) + 1
    if bound > 1 << _TABLE_BITS:
        return torch.unique(keys, return_counts=True)
    table = torch.bincount(keys, minlength=bound)
    unique = torch.nonzero(table).flatten()
    return unique, table[unique]


def _sum_by_key(*pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct keys of several (keys, counts), sorted, and the sums of their counts."""
    pairs = tuple(pair for pair in pairs if len(pair[0]))
    if len(pairs) == 0:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    keys, inverse = torch.unique(torch.cat([keys for keys, _ in pairs]), return_inverse=True)
    return keys, torch.zeros_like(keys).index_add_(0, inverse, torch.cat([counts for _, counts in pairs]))
