# SPDX-License-Identifier: Apache-2.0
"""Quantize networks of a pipeline: all are planned before the first is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..components import networks_of
from ..reports import Report
from .config import QuantizeConfig
from .plan import plan_quantization, require_finite
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


def quantize_pipeline_(pipeline: Any, config: QuantizeConfig, components: Iterable[str] | None) -> PipelineReport:
    """:func:`.quantize_` of networks of a pipeline, by default of its denoiser.

    Raises:
        ValueError: As :func:`.quantize_`, of any of them, or no such network; nothing is changed then.
    """
    from .quantize import quantize_

    networks = networks_of(pipeline, components)
    for name, network in networks.items():
        try:
            require_finite(network, plan_quantization(network, config), "quantize_")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return PipelineReport({name: quantize_(network, config) for name, network in networks.items()})
