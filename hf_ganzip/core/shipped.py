# SPDX-License-Identifier: Apache-2.0
"""Folders that lie beside the package in a checkout and in it in a wheel: ``examples`` and ``metrics_hub``."""

from __future__ import annotations

import ast
from pathlib import Path


def shipped(name: str) -> Path:
    """The folder of that name.

    Raises:
        FileNotFoundError: The installation lacks it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder {name} in {package} or beside it; reinstall hf_ganzip.")


def metric_folders() -> dict[str, Path]:
    """Name -> folder of every `evaluate` module."""
    files = sorted(shipped("metrics_hub").glob("*/*.py"))
    return {path.parent.name: path.parent for path in files if path.stem == path.parent.name}


def scripts(prefix: str = "") -> dict[str, Path]:
    """Name without ``prefix`` -> script of ``examples`` whose name begins with it.

    Example:
        >>> sorted(scripts("finetune_"))
        ['ddpm', 'stylegan2', 'stylegan3']
    """
    return {path.stem.removeprefix(prefix): path for path in sorted(shipped("examples").glob(f"{prefix}*.py"))}


def recipes() -> dict[str, Path]:
    """Name -> recipe of ``examples/recipes``."""
    return {path.stem: path for path in sorted((shipped("examples") / "recipes").glob("*.yaml"))}


def first_line(path: Path) -> str:
    """What a script says of itself, or a recipe in its first comment."""
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text.lstrip("# ")
    return said.partition("\n")[0]
