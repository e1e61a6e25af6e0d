# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md from what the benchmarks wrote: ``python benchmarks/_page.py`` (part of ``make benchmark``)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "benchmarks"
PAGE = HERE.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Ratios within one run: ours and the other side take turns, so that drifts of the machine hit both. `ratio` is the median
of the pairs, `least` and `greatest` its range, `target` what the project asks of itself. Written by `make benchmark`
from the JSON files in `docs/benchmarks`; packages that a script compares with, and that are not among its versions
below, were not installed and are left out. `--help` of a script tells its options, `--quick` shows in seconds that it
runs.
"""


def scripts(measured: bool) -> list[Path]:
    """The benchmarks that have results, or that have none, by name."""
    return sorted(path for path in HERE.glob("[a-z]*.py") if bool(results(path)) == measured)


def results(script: Path) -> list[Path]:
    """What a benchmark wrote: NAME.json, and NAME-SECTION.json of sections that were run alone."""
    return sorted(path for path in RESULTS.glob("*.json") if path.stem.partition("-")[0] == script.stem)


def render() -> str:
    """Text of the page."""
    parts = [HEAD]
    if missing := ", ".join(f"`benchmarks/{script.name}`" for script in scripts(measured=False)):
        parts.append(f"Without results here: {missing}.\n")
    for script in scripts(measured=True):
        summary, _, details = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))).partition("\n")
        parts.append(f"## {script.stem}\n\n{summary}\n\n{details.strip()}\n")
        for path in results(script):
            found = json.loads(path.read_text(encoding="utf-8"))
            parts.append(f"`{found['command']}`:\n")
            for section, rows in _sections(found["rows"]).items():
                parts.append((f"**{section}**\n\n" if section else "") + _table(rows) + "\n")
            parts.append("Conditions: " + _words(found["conditions"]) + ".\n")
    return "\n".join(part.replace("\n\n\n", "\n\n") for part in parts)


def _sections(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.get("section", ""), []).append(row)
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns that hold something other than lists, in the order in which they come up."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name != "section" and any(row.get(name) is not None and not isinstance(row[name], list) for row in rows)
    ]
    lines = [names, ["---"] * len(names)]
    lines += [["-" if row.get(name) is None else _text(row[name]) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _words(conditions: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {', '.join(f'{key} {each}' for key, each in value.items()) if isinstance(value, dict) else value}"
        for name, value in conditions.items()
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
