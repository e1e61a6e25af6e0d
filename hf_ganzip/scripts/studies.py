# SPDX-License-Identifier: Apache-2.0
"""What the scripts in ``examples/`` that compare many runs share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


_BEGIN, _END = "<!-- study: begin -->", "<!-- study: end -->"


def publish_section(text: str, page: Path | None) -> None:
    """Write a section of Markdown into the marked place of a page; print it without one.

    Raises:
        ValueError: The page has no such place.
    """
    if page is None:
        return print(text)
    before = page.read_text(encoding="utf-8")
    after, count = re.subn(f"(?s){_BEGIN}.*{_END}", lambda _: f"{_BEGIN}\n\n{text}\n\n{_END}", before)
    if not count:
        raise ValueError(f"{page} has no place for the section; write the lines {_BEGIN} and {_END} where it belongs.")
    page.write_text(after, encoding="utf-8")


def finished_runs(report: Path, conditions: dict[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """Runs of a report.json; their folders may be gone.

    Raises:
        ValueError: They were made under other conditions of these names.
    """
    if not report.is_file():
        return []
    found, names = json.loads(report.read_text()), list(names)
    known = {name: found["conditions"].get(name) for name in names}
    _refuse_other(report, known, {name: conditions[name] for name in names})
    return found["runs"]


def check_conditions(folder: Path, conditions: dict[str, Any]) -> None:
    """Note in a run's folder under which conditions it is made, and refuse to go on under others.

    Raises:
        ValueError: The folder holds a run under other, or unknown, conditions.
    """
    path, wanted = folder / "conditions.json", json.loads(json.dumps(conditions))
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds a run under unknown conditions; choose another output_dir.")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1))
    _refuse_other(folder, json.loads(path.read_text()), conditions)


def _refuse_other(place: Path, found: dict[str, Any], conditions: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(conditions))
    other = [
        f"{name} {found.get(name)!r}, now {wanted.get(name)!r}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if other:
        raise ValueError(
            f"{place} holds what was made under other conditions ({'; '.join(other)}); choose another output_dir, or "
            "repeat them."
        )
