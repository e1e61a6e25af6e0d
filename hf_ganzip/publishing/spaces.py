# SPDX-License-Identifier: Apache-2.0
"""Publish our `evaluate` modules as Spaces, where ``evaluate.load("namespace/name")`` finds them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.install_metrics import metric_folders
from ..registry import lookup
from .push import upload


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
    """Upload modules, each as a Space of its own in one commit.

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
        ValueError: An unknown module, or a namespace with a slash.
        ConnectionError: The Hub refused or cannot be reached; says what to do. Spaces before that one are complete.
    """
    if not namespace or "/" in namespace:
        raise ValueError(f"namespace is {namespace!r}; allowed is the name of a user or an organization.")
    folders = metric_folders()
    chosen = {name: lookup(folders, name, "metric") for name in names or folders}
    found = {}
    for name, source in chosen.items():
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(shutil.copytree(source, Path(parent, name), ignore=shutil.ignore_patterns(*_LEFT_OUT)))
            files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            url = ""
            if not dry_run:
                options = {"private": private, "create_pr": create_pr, "token": token, "space_sdk": "gradio"}
                url = upload(
                    folder, f"{namespace}/{name}", repo_type="space", message=f"Upload the metric {name}", **options
                )
        found[f"{namespace}/{name}"] = {"files": files, "url": url}
    return found
