# SPDX-License-Identifier: Apache-2.0
"""Publish pages as Spaces: our `evaluate` modules, where ``evaluate.load("namespace/name")`` finds them, the demo, and
pages that run in the browser.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import hf_ganzip

from ..core.registry import lookup
from ..core.shipped import metric_folders, shipped
from .upload import check_target, sizes, upload
from .wheel import requirements_of, write_wheel


_LEFT_OUT = ("__pycache__", "tests.py")
_NEEDED = ("README.md", "app.py", "requirements.txt")
_STALE = ("hf_ganzip-*.whl",)  # of another version
_START = "start.py"
_THUMBNAIL = "thumbnail.png"
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def push_metrics(
    namespace: str,
    names: Sequence[str] | None = None,
    *,
    repository: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Upload modules, each as a Space of its own in one commit; their README.md load them from there.

    The wheel of this package is among the files, so that a Space needs nothing but PyPI.

    Args:
        namespace: User or organization.
        names: Modules; None: all.
        repository: Address of the source, which the Spaces link; None: none.
        private: Of Spaces that are created.
        create_pr: Open pull requests instead of committing.
        dry_run: Send nothing.
        token: None: the one that is logged in.

    Returns:
        Hub id -> ``files``, ``install`` (the `pip install` line of the wheel there) and ``url`` ("" for a dry run).

    Raises:
        ValueError: An unknown module, a namespace with a slash or characters that the Hub does not take, a
            ``repository`` that is no address.
        RuntimeError: The installation of this package is of another version than what runs.
        ConnectionError: The Hub refused or cannot be reached; says what to do. Spaces before that one are complete.
    """
    if not namespace or "/" in namespace:
        raise ValueError(f"namespace is {namespace!r}; allowed is the name of a user or an organization.")
    folders = metric_folders()
    chosen = {name: lookup(folders, name, "metric") for name in names or folders}
    for name in chosen:
        check_target(f"{namespace}/{name}")
    _check_repository(repository)
    options: dict[str, Any] = {"private": private, "create_pr": create_pr, "dry_run": dry_run, "token": token}
    found = {}
    with tempfile.TemporaryDirectory() as parent:
        wheel = write_wheel(parent)
        for name, source in chosen.items():
            repo_id, message = f"{namespace}/{name}", f"Upload the metric {name}"
            entry = _push(source, repo_id, wheel, message, module=name, repository=repository, **options)
            found[repo_id] = entry | {"files": sorted(entry["files"])}
    return found


def push_demo(
    folder: str | Path,
    repo_id: str,
    *,
    title: str | None = None,
    repository: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> dict[str, Any]:
    """Upload a page in Python as a Gradio Space, in one commit, with the wheel of this package.

    Args:
        folder: With ``app.py``, ``README.md`` and ``requirements.txt``; or "compress", the demo of this package.
        repo_id: "namespace/name".
        title: Of the Space; None: that of README.md.
        repository: Address of the source, which the Space links; None: none.
        private: Of a Space that is created.
        create_pr: Open a pull request instead of committing.
        dry_run: Send nothing.
        token: None: the one that is logged in.

    Returns:
        ``files`` (path -> bytes), ``install`` (the `pip install` line of the wheel there) and ``url`` ("" for a dry
        run).

    Raises:
        ValueError: A folder that is no such page, no Hub id, or a ``repository`` that is no address.
        RuntimeError: The installation of this package is of another version than what runs.
        ConnectionError: The Hub refused or cannot be reached; says what to do.
    """
    check_target(repo_id)
    _check_repository(repository)
    source = Path(folder)
    if not source.is_dir():
        demos = {path.name.removeprefix("space_"): path for path in shipped("examples").glob("space_*")}
        source = lookup(demos, str(folder), "folder or demo")
    missing = [name for name in _NEEDED if not (source / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no Gradio Space: it has no {missing[0]}.")
    options: dict[str, Any] = {"private": private, "create_pr": create_pr, "dry_run": dry_run, "token": token}
    with tempfile.TemporaryDirectory() as parent:
        message = f"Upload the page {source.name}"
        return _push(source, repo_id, write_wheel(parent), message, title=title, repository=repository, **options)


def _push(
    source: Path,
    repo_id: str,
    wheel: Path,
    message: str,
    *,
    module: str | None = None,
    title: str | None = None,
    repository: str | None,
    **options: Any,
) -> dict[str, Any]:
    """Upload a copy of a page's folder with the wheel; what :func:`push_demo` returns."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(source, Path(parent, source.name), ignore=shutil.ignore_patterns(*_LEFT_OUT)))
        if module is not None:
            _load_from_hub(folder / "README.md", module, repo_id)
        shutil.copy(wheel, folder)
        shutil.copy(Path(hf_ganzip.__file__).parent / "space" / _START, folder)
        requirements = folder / "requirements.txt"
        requirements.write_text("\n".join(_on_pypi(requirements)) + "\n", encoding="utf-8")
        where = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main"
        head: dict[str, Any] = {"app_file": _START} | ({} if title is None else {"title": title})
        if (folder / _THUMBNAIL).is_file():
            head["thumbnail"] = f"{where}/{_THUMBNAIL}"
        install = f'pip install "hf_ganzip @ {where}/{wheel.name}"'
        _write_head(folder / "README.md", head, install, repository)
        space: dict[str, Any] = {"repo_type": "space", "space_sdk": "gradio", "stale": _STALE}
        url = upload(folder, repo_id, message=message, **space, **options)
        return {"files": sizes(folder), "install": install, "url": url}


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
    options: dict[str, Any] = {"private": private, "create_pr": create_pr, "dry_run": dry_run, "token": token}
    options |= {"repo_type": "space", "space_sdk": "static"}
    url = upload(folder, repo_id, message="Upload a page that runs a model", **options)
    return {"files": sizes(folder), "url": url}


def _load_from_hub(readme: Path, name: str, repo_id: str) -> None:
    """Let the snippets of a module's README.md load it from its Space instead of the folder in the repository."""
    local = rf'evaluate\.load\(\s*"metrics_hub/{name}"\s*\)[^\n]*'
    text, count = re.subn(local, f'evaluate.load("{repo_id}")', readme.read_text(encoding="utf-8"))
    if not count:
        raise ValueError(f'{readme} does not show evaluate.load("metrics_hub/{name}"); reinstall hf_ganzip.')
    readme.write_text(text, encoding="utf-8")


def _check_repository(repository: str | None) -> None:
    """Refuse what is no address."""
    if repository is not None and not re.fullmatch(r"https?://[^\s()<>\"']+", repository):
        raise ValueError(f"repository is {repository!r}; allowed are addresses that begin with https:// or http://.")


def _on_pypi(file: Path) -> list[str]:
    """Lines of a requirements.txt; in place of ours, which PyPI has not, what it needs."""
    found: list[str] = []
    for line in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        if line.startswith("#"):
            continue
        try:
            needed = Requirement(line)
        except InvalidRequirement as error:
            raise ValueError(f"{file.name}: {line!r} is no requirement that can be checked: {error}") from error
        ours = canonicalize_name(needed.name) == "hf-ganzip"
        found += requirements_of(needed.extras) if ours else [line]
    return found


def _write_head(readme: Path, head: dict[str, Any], install: str, repository: str | None) -> None:
    text = readme.read_text(encoding="utf-8")
    match = _HEAD.match(text)
    if match is None:
        raise ValueError(f"{readme.name} does not begin with a head between two lines ---, which the Hub reads.")
    lines = yaml.safe_dump(yaml.safe_load(match[1]) | head, sort_keys=False, allow_unicode=True, width=1000)
    source = "" if repository is None else f" Its source: <{repository}>."
    about = (
        "\n"
        "## hf_ganzip\n\n"
        f"This Space runs hf_ganzip {hf_ganzip.__version__}, whose wheel lies in its files.{source} For your own "
        "machine:\n\n"
        f"```bash\n{install}\n```\n"
    )
    readme.write_text(f"---\n{lines}---\n{text[match.end() :].rstrip()}\n{about}", encoding="utf-8")
