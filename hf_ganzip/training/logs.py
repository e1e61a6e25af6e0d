# SPDX-License-Identifier: Apache-2.0
"""The logs of a training, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log in the order of steps; of two for a step, as resumed runs leave, the later. None without a file."""
    if not path.is_file():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    found = {row["step"]: row for row in rows}
    return [found[step] for step in sorted(found)]


def figures_of(row: Mapping[str, Any], weights: str = "average") -> dict[str, Any]:
    """Step, images and the figures of "average" or "trained" weights, by plain names, of a row of a log."""
    start = f"{weights}_"
    named = {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
    return {"step": row["step"], "images": row["images"], **named}
