# SPDX-License-Identifier: Apache-2.0
"""What :func:`.prune_` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..core.record import table
from ..core.reports import Report


@dataclass(frozen=True)
class PrunedSet:
    """What happened to one channel set: its name, widths before and after, and the indices that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class PruneReport(Report):
    """Result of :func:`prune_`.

    Args:
        criterion: Name of the criterion.
        sets: Channel sets in the order of the data.
        parameters_before: Parameters of the model.
        parameters_after: The same afterwards.
        macs_before: Operations of one sample, see :func:`.count_macs`.
        macs_after: The same afterwards.
    """

    criterion: str
    sets: tuple[PrunedSet, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)

    def facts(self) -> dict[str, str]:
        return {
            "criterion": self.criterion,
            "parameters": f"{self.parameters_before:,} -> {self.parameters_after:,}",
            "million operations": f"{self.macs_before / 1e6:,.1f} -> {self.macs_after / 1e6:,.1f}",
        }

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self.sets]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        rows = [(s.name, f"{s.before}", f"{s.after}", f"{1 - s.after / s.before:.0%}") for s in self.sets]
        return {"channels": [("channels", "before", "after", "removed"), *rows]}

    def __str__(self) -> str:
        change = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters"
        change += f", {self.macs_before / 1e6:,.1f} -> {self.macs_after / 1e6:,.1f} million operations"
        note = "; nothing was removed" if self.parameters_before == self.parameters_after else ""
        return "\n".join(table(self.tables()["channels"])) + f"\n{change} by {self.criterion}{note}"
