# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that are not files in docs/: the README as home, files of the repository that pages link to,
commands and public names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files


ROOT = Path(__file__).parents[1]
REPOSITORY = "repository"  # where copies of files from outside docs/ lie on the site
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config) -> Files:
    pages = {"index.md": "README.md", **{f"{REPOSITORY}/{path}": path for path in _linked_files()}}
    for target, source in pages.items():
        path = ROOT / source
        if path.suffix == ".md":
            files.append(File.generated(config, target, content=_with_links(path.read_text("utf-8"), source, target)))
        else:
            files.append(File.generated(config, target, abs_src_path=str(path)))
    files.append(File.generated(config, "commands.md", content=_commands()))
    files.append(File.generated(config, "api.md", content=_api()))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    source = page.file.src_uri
    return markdown if page.file.generated_by else _with_links(markdown, f"docs/{source}", source)


def _linked_files() -> list[str]:
    """Files outside docs/ that README, pages of docs/, or these files themselves link to, from the root of the
    repository.
    """
    seen, queue = set(), ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    while queue:
        source = queue.pop()
        for _, link, _, _ in _LINK.findall((ROOT / source).read_text("utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            if path in seen or path.startswith("docs/") or path == "README.md" or not (ROOT / path).is_file():
                continue
            seen.add(path)
            if path.endswith(".md"):
                queue.append(path)
    return sorted(seen)


def _with_links(text: str, source: str, target: str) -> str:
    """The text of a file of the repository with links that hold on the site."""

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if path == "README.md":
            place = "index.md"
        elif path.startswith("docs/"):
            place = path.removeprefix("docs/")
        else:
            place = f"{REPOSITORY}/{path}"
        return f"{match[1]}{posixpath.relpath(place, posixpath.dirname(target) or '.')}{match[3] or ''}{match[4]}"

    return _LINK.sub(link, text)


def _commands() -> str:
    """What `hf-ganzip COMMAND --help` says, for every command."""
    import typer
    from typer.testing import CliRunner

    from hf_ganzip.cli import app

    def help_of(names: list[str]) -> str:
        shown = (
            CliRunner()
            .invoke(app, [*names, "--help"], env={"TERMINAL_WIDTH": "84", "NO_COLOR": "1"}, prog_name="hf-ganzip")
            .output
        )
        return f"## hf-ganzip {' '.join(names)}\n\n```text\n{shown.strip()}\n```\n"

    def walk(group, names: list[str]) -> list[str]:
        found = []
        for name, command in group.commands.items():
            found += walk(command, [*names, name]) if hasattr(command, "commands") else [help_of([*names, name])]
        return found

    return "\n".join(["# Commands\n", *walk(typer.main.get_command(app), [])])


def _api() -> str:
    """The public names in the order in which one meets them, then the metrics."""
    import hf_ganzip
    import hf_ganzip.metrics

    lines = ["# API\n"]
    for module in (hf_ganzip, hf_ganzip.metrics):
        lines.append(f"## {module.__name__}\n")
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", None)  # METRICS, a dict, has none
            lines += [f"::: {home}.{name}\n    options: {{heading_level: 3}}\n"] if home else []
    return "\n".join(lines)
