# SPDX-License-Identifier: Apache-2.0
"""What a folder with a page needs besides to be a Space that builds: our wheel, requirements that PyPI has, a head
that the Hub reads.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import hf_ganzip

from .wheel import requirements_of


NEEDED = ("README.md", "app.py", "requirements.txt")
STALE = ("hf_ganzip-*.whl",)  # of another version
_START = "start.py"
_THUMBNAIL = "thumbnail.png"
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def check_repository(repository: str | None) -> None:
    """Refuse what is no address.

    Raises:
        ValueError: ``repository`` neither begins with https:// or http:// nor is None.
    """
    if repository is not None and not re.fullmatch(r"https?://[^\s()<>\"']+", repository):
        raise ValueError(f"repository is {repository!r}; allowed are addresses that begin with https:// or http://.")


def complete_space(
    folder: Path, repo_id: str, wheel: Path, *, title: str | None = None, repository: str | None = None
) -> str:
    """Make a copy of a page's folder what is uploaded; returns the `pip install` line for those who want the package.

    Args:
        folder: With the files of ``NEEDED``; changed in place.
        repo_id: Of the Space.
        wheel: Of this package.
        title: Of the Space; None: that of README.md.
        repository: Address of the source, which README.md links; None: none.

    Raises:
        ValueError: README.md has no head, or a line of requirements.txt is none.
        RuntimeError: As :func:`.requirements_of`.
    """
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
    return install


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
