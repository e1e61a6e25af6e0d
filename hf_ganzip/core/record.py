# SPDX-License-Identifier: Apache-2.0
"""What was done to a model: JSON-serializable steps, where it came from, and text tables of reports."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


RECORD = "_ganzip_record"
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


def machine() -> str:
    """The processor and the number of torch's threads, for the conditions of figures that depend on them."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(named, platform.processor()) or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Step:
    """One step of a compression, as stored in ``config.json``.

    Args:
        name: "prune", "refine", "train" (from scratch), "finetune" or "quantize".
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
    """ "org/name@sha" of a folder in the Hub cache, the name of another folder, anything else as it is (a Hub id)."""
    folder = Path(folder)
    for each in (folder, folder.parent):  # the repository, or one part of a pipeline
        if each.parent.name == "snapshots" and each.parents[1].name.startswith("models--"):
            repository = each.parents[1].name.removeprefix("models--").replace("--", "/")
            return f"{repository}@{each.name}"
    return folder.name if folder.is_dir() or folder.is_absolute() else str(folder).removeprefix(".")


def origin_of(model: Any) -> str:
    """:func:`origin` of what a model of diffusers or transformers was loaded from; "" for one that was built."""
    config = getattr(model, "config", None)
    path = config.get("_name_or_path") if isinstance(config, dict) else getattr(model, "name_or_path", None)
    return origin(path or "")


def compression_of(model: Any) -> dict[str, Any] | None:
    """What ``quantization_config`` of a compressed model holds, as a dict that can be changed; None for other models.

    When diffusers saves a model it puts a dict into the config's item, but writes, the next time too, the object in
    the config's attribute.
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
    return list(config.get(RECORD, ())) if isinstance(config, dict) else list(getattr(model, RECORD, ()))


def record_step(model: Any, step: Step) -> None:
    """Add a step to the record of a model in full precision: in its config, if it has one that is saved."""
    steps = [*recorded_steps(model), step.to_dict()]
    compression = compression_of(model)
    if compression is not None:
        compression["record"] = steps
    elif hasattr(model, "register_to_config"):
        model.register_to_config(**{RECORD: steps})
    else:
        setattr(model, RECORD, steps)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a text table: first column left, numbers right, last column left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 2), str.ljust]
    return ["  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths)).rstrip() for row in rows]
