# SPDX-License-Identifier: Apache-2.0
"""`make docs`: the site builds, without a warning: every link and anchor within it leads somewhere."""

import os
import subprocess
import sys

import pytest

from .pages import ROOT


pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file() and f'href="{page.stem}/"' in index, page


def test_commands_and_public_names_are_there(site):
    import hf_ganzip
    from hf_ganzip.cli.shared import app

    commands, api = ((site / name / "index.html").read_text(encoding="utf-8") for name in ("commands", "api"))
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f"hf-ganzip {name}" not in commands] == []
    assert [name for name in hf_ganzip.__all__ if f".{name}" not in api] == []


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("index.html"):
        text = page.read_text(encoding="utf-8")
        assert '<script src="http' not in text and 'rel="stylesheet" href="http' not in text, page
