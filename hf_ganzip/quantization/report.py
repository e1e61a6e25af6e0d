# SPDX-License-Identifier: Apache-2.0
"""What :func:`.quantize_` returns: what happened to every weight, and the bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.record import table
from ..core.reports import Report


@dataclass(frozen=True)
class LayerReport:
    """What happened to one weight.

    Args:
        name: Tensor name, for example ``synthesis.b8.conv0.weight``.
        kind: Class of the layer.
        shape: Shape of the weight.
        bytes_before: Bytes of the weight before.
        bytes_after: Bytes of packed codes and scales, or ``bytes_before`` if it was not quantized.
        bits: 2 to 8; None if it was not quantized.
        method: Name of the method; None if it was not quantized.
        sqnr_db: Signal to quantization noise, 10 log10(sum w^2 / sum (w - q)^2), in decibel; of 2^20 weights and more
            by an eighth of their output channels; None without error or signal.
        activations: "static" or "dynamic" where inputs of the layer are rounded to 8 bits; None where they stay in
            floating point.
        input_range: Least and greatest input that is not clipped, of static ones.
        skipped: Why it was not quantized; None if it was.
        note: What differs from the options, such as more bits or smaller groups, and why; None if nothing does.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    bits: int | None = None
    method: str | None = None
    sqnr_db: float | None = None
    activations: str | None = None
    input_range: tuple[float, float] | None = None
    skipped: str | None = None
    note: str | None = None


@dataclass(frozen=True, repr=False)
class QuantizeReport(Report):
    """Result of ``quantize_``: one entry per weight, and the bytes of everything else.

    Args:
        layers: All weights in model order.
        other_bytes: Bytes of parameters and buffers that are no weights (biases, noise, statistics), after the step:
            vectors of folded spectral norms are gone.
    """

    layers: tuple[LayerReport, ...]
    other_bytes: int
    computed = ("bytes_before", "bytes_after", "bits_per_weight", "quantized_share")

    @property
    def quantized(self) -> tuple[LayerReport, ...]:
        """Entries that were quantized."""
        return tuple(layer for layer in self.layers if layer.skipped is None)

    @property
    def skipped(self) -> tuple[LayerReport, ...]:
        """Entries that were not quantized, with the reason."""
        return tuple(layer for layer in self.layers if layer.skipped is not None)

    @property
    def bytes_before(self) -> int:
        """Bytes of all tensors before."""
        return sum(layer.bytes_before for layer in self.layers) + self.other_bytes

    @property
    def bytes_after(self) -> int:
        """Bytes of all tensors after."""
        return sum(layer.bytes_after for layer in self.layers) + self.other_bytes

    @property
    def unpacked_bytes(self) -> int:
        """Bytes that the unpacked copies of all quantized weights take besides, with ``compute="dequantized"``."""
        return sum(layer.bytes_before for layer in self.quantized)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per quantized weight, scales included."""
        weights = sum(math.prod(layer.shape) for layer in self.quantized)
        return 8 * sum(layer.bytes_after for layer in self.quantized) / weights

    @property
    def quantized_share(self) -> float:
        """Share of the bytes before that belonged to quantized weights, in [0, 1]."""
        return sum(layer.bytes_before for layer in self.quantized) / self.bytes_before

    def facts(self) -> dict[str, str]:
        rounded = sum(layer.activations is not None for layer in self.layers)
        activations = {"activations of 8 bits": f"{rounded} layers"} if rounded else {}
        return {
            "weights quantized": f"{len(self.quantized)} of {len(self.layers)}",
            **activations,
            "bits per weight": f"{self.bits_per_weight:.3f}",
            "bytes": f"{self.bytes_before:,} -> {self.bytes_after:,} ({self._ratio} smaller)",
        }

    def rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(layer) for layer in self.layers]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        rounded = any(layer.activations for layer in self.layers)
        inputs = ("inputs",) if rounded else ()
        rows = [("layer", "shape", "bits", *inputs, "SQNR dB", "bytes before", "bytes after", "")]
        for layer in self.layers:
            sqnr = "" if layer.sqnr_db is None else f"{layer.sqnr_db:.2f}"
            shape = "x".join(map(str, layer.shape)) or "scalar"
            bits = "" if layer.bits is None else str(layer.bits)
            after = f"{layer.bytes_after:,}"
            inputs = (_inputs(layer),) if rounded else ()
            why = layer.skipped or layer.note or ""
            rows.append((layer.name, shape, bits, *inputs, sqnr, f"{layer.bytes_before:,}", after, why))
        empty = ("",) * (4 if rounded else 3)
        rows.append(("other tensors", *empty, f"{self.other_bytes:,}", f"{self.other_bytes:,}", ""))
        rows.append(("total", *empty, f"{self.bytes_before:,}", f"{self.bytes_after:,}", ""))
        return {"weights": rows}

    @property
    def _ratio(self) -> str:
        return f"{self.bytes_before / max(self.bytes_after, 1):.2f}x"

    def __str__(self) -> str:
        summary = (
            f"{len(self.quantized)} of {len(self.layers)} weights quantized, {self.bits_per_weight:.3f} bits per "
            f"weight; {self._ratio} smaller"
        )
        return "\n".join([*table(self.tables()["weights"]), summary])


def _inputs(layer: LayerReport) -> str:
    """What the inputs of a layer are rounded to."""
    if layer.input_range is None:
        return layer.activations or "float"
    return f"{layer.input_range[0]:.3g} to {layer.input_range[1]:.3g}"


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
