# SPDX-License-Identifier: Apache-2.0
"""What was done to a model and what came of it: JSON-serializable steps and reports."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


_RECORD = "_ganzip_record"
_RECORDED_PACKAGES = ("hf_ganzip", "torch", "diffusers")


def versions() -> dict[str, str]:
    """Versions of hf_ganzip, torch and diffusers, as far as they are installed."""
    found = {}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Step:
    """One step of a compression, as stored in ``config.json``.

    Args:
        name: "prune", "refine", "finetune" or "quantize".
        options: The options of the step, JSON types only.
        base_model: Hub id and revision ("org/name@sha") or folder name that the step started from, "" if unknown.
        versions: Library versions.
    """

    name: str
    options: dict[str, Any]
    base_model: str = ""
    versions: dict[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return dataclasses.asdict(self)


def origin(folder: str | Path) -> str:
    """Hub id and revision ("org/name@sha") of a folder in the Hub cache, the name of another folder, and anything else as it is (a Hub id)."""
    folder = Path(folder)
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        repository = folder.parents[1].name.removeprefix("models--").replace("--", "/")
        return f"{repository}@{folder.name}"
    return folder.name if folder.is_dir() or folder.is_absolute() else str(folder).removeprefix(".")


def origin_of(model: Any) -> str:
    """:func:`origin` of what a model of diffusers or transformers was loaded from; "" for one that was built."""
    config = getattr(model, "config", None)
    path = config.get("_name_or_path") if isinstance(config, dict) else getattr(model, "name_or_path", None)
    return origin(path or "")


def compression_of(model: Any) -> dict[str, Any] | None:
    """What ``quantization_config`` of a compressed model holds, as a dict that can be changed; None for other models.

    When diffusers saves a model it puts a dict into the config's item, but writes, the next time too, the object in the config's attribute.
    """
    config = getattr(model, "config", None)
    found = getattr(config, "quantization_config", None) if isinstance(config, dict) else None
    if found is None or isinstance(found, dict):
        return found
    return found.__dict__ if hasattr(found, "record") else None


def recorded_steps(model: Any) -> list[dict[str, Any]]:
    """The steps that led to a model, oldest first, as :meth:`Step.to_dict` gives them."""
    config, compression = getattr(model, "config", None), compression_of(model)
    if compression is not None and compression.get("record"):
        return list(compression["record"])
    return list(config.get(_RECORD, ())) if isinstance(config, dict) else list(getattr(model, _RECORD, ()))


def record_step(model: Any, step: Step) -> None:
    """Add a step to the record of a model in full precision: in its config, if it has one that is saved."""
    steps = [*recorded_steps(model), step.to_dict()]
    compression = compression_of(model)
    if compression is not None:
        compression["record"] = steps
    elif hasattr(model, "register_to_config"):
        model.register_to_config(**{_RECORD: steps})
    else:
        setattr(model, _RECORD, steps)


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
        sqnr_db: Signal to quantization noise, 10 log10(sum w^2 / sum (w - q)^2), in decibel; None without error or signal.
        skipped: Why it was not quantized; None if it was.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    bits: int | None = None
    method: str | None = None
    sqnr_db: float | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """Result of ``quantize_``: one entry per weight, and the bytes of everything else.

    Args:
        layers: All weights in model order.
        other_bytes: Bytes of parameters and buffers that are no weights (biases, noise, statistics), after the step: vectors of folded spectral
            norms are gone.
    """

    layers: tuple[LayerReport, ...]
    other_bytes: int

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
    def bits_per_weight(self) -> float:
        """Stored bits per quantized weight, scales included."""
        weights = sum(_numel(layer.shape) for layer in self.quantized)
        return 8 * sum(layer.bytes_after for layer in self.quantized) / weights

    @property
    def quantized_share(self) -> float:
        """Share of the bytes before that belonged to quantized weights, in [0, 1]."""
        return sum(layer.bytes_before for layer in self.quantized) / self.bytes_before

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON, totals included."""
        totals = ("bytes_before", "bytes_after", "bits_per_weight", "quantized_share")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in totals}

    def __str__(self) -> str:
        rows = [("layer", "shape", "bits", "SQNR dB", "bytes before", "bytes after", "")]
        for layer in self.layers:
            sqnr = "" if layer.sqnr_db is None else f"{layer.sqnr_db:.2f}"
            shape = "x".join(map(str, layer.shape)) or "scalar"
            bits = "" if layer.bits is None else str(layer.bits)
            after = f"{layer.bytes_after:,}"
            rows.append((layer.name, shape, bits, sqnr, f"{layer.bytes_before:,}", after, layer.skipped or ""))
        rows.append(("other tensors", "", "", "", f"{self.other_bytes:,}", f"{self.other_bytes:,}", ""))
        rows.append(("total", "", "", "", f"{self.bytes_before:,}", f"{self.bytes_after:,}", ""))
        summary = (
            f"{len(self.quantized)} of {len(self.layers)} weights quantized, {self.bits_per_weight:.3f} bits per weight; "
            f"{self.bytes_before / max(self.bytes_after, 1):.2f}x smaller"
        )
        return "\n".join([*table(rows), summary])


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a text table: first column left, numbers right, last column left."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
