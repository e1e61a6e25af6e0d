# SPDX-License-Identifier: Apache-2.0
"""What :func:`.export` returns: bytes, and how far the file is from torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..core.record import table
from ..core.reports import Report
from .weights import StoredWeight


@dataclass(frozen=True)
class Compared:
    """The file in ONNX Runtime against the model in torch.

    Args:
        inputs: How many inputs were compared.
        largest_error: Largest difference of any output, in units of its largest magnitude, at least 1.
        sqnr_db: Signal to noise of the first output in decibel; None without an error.
    """

    inputs: int
    largest_error: float
    sqnr_db: float | None


@dataclass(frozen=True, repr=False)
class ExportReport(Report):
    """Result of :func:`.export` for one network.

    Args:
        file: Path of the ONNX file.
        bytes: Of the file, and of its data beside it.
        model_bytes: Of all tensors of the model, packed ones as they are packed.
        opset: Operator set.
        inputs: Name -> shape.
        outputs: Names.
        weights: Of packed layers.
        rounded: Layers whose products are computed with integers.
        compared: With torch.
    """

    file: str
    bytes: int
    model_bytes: int
    opset: int
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    weights: tuple[StoredWeight, ...]
    rounded: tuple[str, ...] = ()
    compared: Compared = Compared(0, 0.0, None)

    @property
    def ratio(self) -> float:
        """Bytes of the file in units of those of the model."""
        return self.bytes / self.model_bytes

    @property
    def _difference(self) -> str:
        noise = "" if self.compared.sqnr_db is None else f", {self.compared.sqnr_db:.1f} dB"
        return f"largest error {self.compared.largest_error:.1e}{noise}"

    def facts(self) -> dict[str, str]:
        size = f"{self.bytes:,} ({self.ratio:.3f} of the model's)"
        return {"file": self.file, "bytes": size, "opset": str(self.opset), "against torch": self._difference}

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(weight) for weight in self.weights]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        head = ("weight", "bits", "stored as", "bytes", "packed")
        cells = [(w.name, str(w.bits), w.stored_as, f"{w.bytes:,}", f"{w.packed_bytes:,}") for w in self.weights]
        return {"packed weights": [head, *cells]}

    def __str__(self) -> str:
        lines = table(self.tables()["packed weights"]) if self.weights else []
        inputs = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in self.inputs.items())
        lines += [
            f"inputs {inputs}; outputs {', '.join(self.outputs)}; operator set {self.opset}",
            f"{self.bytes:,} bytes in {self.file}; {self.ratio:.3f} of the model's {self.model_bytes:,}",
            f"ONNX Runtime against torch on {self.compared.inputs} inputs: {self._difference}",
        ]
        return "\n".join(lines)
