# SPDX-License-Identifier: Apache-2.0
"""Publish our `evaluate` modules as Spaces, where ``evaluate.load("namespace/name")`` finds them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..registry import lookup
from ..shipped import metric_folders
from .push import check_target, upload


_LEFT_OUT = ("__pycache__", "tests.py")


def push_metrics(
    namespace: str,
    names: Sequence[str] | None = None,
    *,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Upload modules, each as a Space of its own in one commit; their README.md load them from there.

    Args:
        namespace: User or organization.
        names: Modules; None: all.
        private: Of Spaces that are created.
        create_pr: Open pull requests instead of committing.
        dry_run: Send nothing.
        token: None: the one that is logged in.

    Returns:
        Hub id -> ``files`` and ``url`` ("" for a dry run).

    Raises:
        ValueError: An unknown module, a namespace with a slash or characters that the Hub does not take.
        ConnectionError: The Hub refused or cannot be reached; says what to do. Spaces before that one are complete.
    """
    if not namespace or "/" in namespace:
        raise ValueError(f"namespace is {namespace!r}; allowed is the name of a user or an organization.")
    folders = metric_folders()
    chosen = {name: lookup(folders, name, "metric") for name in names or folders}
    for name in chosen:
        check_target(f"{namespace}/{name}")
    found = {}
    for name, source in chosen.items():
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(shutil.copytree(source, Path(parent, name), ignore=shutil.ignore_patterns(*_LEFT_OUT)))
            _load_from_hub(folder / "README.md", name, f"{namespace}/{name}")
            files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            url = ""
            if not dry_run:
                options = {"private": private, "create_pr": create_pr, "token": token, "space_sdk": "gradio"}
                url = upload(
                    folder, f"{namespace}/{name}", repo_type="space", message=f"Upload the metric {name}", **options
                )
        found[f"{namespace}/{name}"] = {"files": files, "url": url}
    return found


def push_page(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> dict[str, Any]:
    """Upload a page that :func:`.export_web` wrote as a static Space, in one commit.

    Args:
        folder: Of the page.
        repo_id: "namespace/name".
        private: Of a Space that is created.
        create_pr: Open a pull request instead of committing.
        dry_run: Send nothing.
        token: None: the one that is logged in.

    Returns:
        ``files`` (path -> bytes) and ``url`` ("" for a dry run).

    Raises:
        ValueError: A folder that is no page, or no Hub id.
        ConnectionError: The Hub refused or cannot be reached; says what to do.
    """
    folder = Path(folder)
    check_target(repo_id)
    missing = [name for name in ("index.html", "script.js", "README.md") if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no page: it has no {missing[0]}; hf-ganzip export MODEL {folder} --web makes one."
        )
    files = {
        str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    url = ""
    if not dry_run:
        options = {"private": private, "create_pr": create_pr, "token": token, "space_sdk": "static"}
        url = upload(folder, repo_id, repo_type="space", message="Upload a page that runs a model", **options)
    return {"files": files, "url": url}


def _load_from_hub(readme: Path, name: str, repo_id: str) -> None:
    """Let the snippets of a module's README.md load it from its Space instead of the folder in the repository."""
    local = rf'evaluate\.load\(\s*"metrics_hub/{name}"\s*\)[^\n]*'
    text, count = re.subn(local, f'evaluate.load("{repo_id}")', readme.read_text(encoding="utf-8"))
    if not count:
        raise ValueError(f'{readme} does not show evaluate.load("metrics_hub/{name}"); reinstall hf_ganzip.')
    readme.write_text(text, encoding="utf-8")
