# SPDX-License-Identifier: Apache-2.0
"""What quantizing networks of a pipeline gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..reports import Report
from .report import QuantizeReport


class PipelineReport(Report, Mapping[str, QuantizeReport]):
    """Result of ``quantize_`` of a pipeline: component -> report."""

    def __init__(self, reports: Mapping[str, QuantizeReport]):
        self._reports = dict(reports)

    def __getitem__(self, component: str) -> QuantizeReport:
        return self._reports[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reports)

    def __len__(self) -> int:
        return len(self._reports)

    @property
    def bytes_before(self) -> int:
        """Bytes of all tensors of these components before."""
        return sum(report.bytes_before for report in self.values())

    @property
    def bytes_after(self) -> int:
        """Bytes of all tensors of these components after."""
        return sum(report.bytes_after for report in self.values())

    def to_dict(self) -> dict[str, Any]:
        """Component -> plain dict for JSON."""
        return {name: report.to_dict() for name, report in self.items()}

    def facts(self) -> dict[str, str]:
        return {name: report.facts()["bytes"] for name, report in self.items()}

    def rows(self) -> list[dict[str, Any]]:
        return [{"component": name, **row} for name, report in self.items() for row in report.rows()]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        return {f"{name}: {title}": cells for name, report in self.items() for title, cells in report.tables().items()}

    def __str__(self) -> str:
        return "\n\n".join(f"{name}\n{report}" for name, report in self.items())
