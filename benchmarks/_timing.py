# SPDX-License-Identifier: Apache-2.0
"""Timings as ratios within one run, a table, and JSON: what the benchmark scripts share."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hf_ganzip.core.record import machine


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """Options of every benchmark."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--repeats", type=int, default=repeats, help="timed runs of each side (default: %(default)s)")
    result.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    result.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    result.add_argument("--json", type=Path, help="also write rows and conditions to this file")
    return result


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of every run, the sides in turn after one warm-up each, so that drifts of the machine hit all alike."""
    for side in sides.values() if warm_up else ():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median of the pairwise ratios slow / fast, and their least and greatest."""
    ratios = [a / b for a, b in zip(slow, fast)]
    return {"ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def conditions(arguments: argparse.Namespace, *packages: str) -> dict[str, Any]:
    """What moves the numbers."""
    versions = {name: metadata.version(name) for name in ("torch", "numpy", *packages)}
    return {
        "machine": machine(),
        "repeats": arguments.repeats,
        "quick": arguments.quick,
        "versions": versions,
    }


def report(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], path: Path | None) -> None:
    """Print rows as a table under their keys, then the conditions; write both as JSON where asked."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
    print("conditions: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    if path is not None:
        # Without this file's name, so that a page made of it does not depend on where it was written.
        given = [each for each in sys.argv[1:] if each not in ("--json", str(path))]
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])
        written = {"command": command, "rows": list(rows), "conditions": dict(found)}
        path.write_text(json.dumps(written, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
