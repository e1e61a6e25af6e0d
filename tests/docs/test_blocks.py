# SPDX-License-Identifier: Apache-2.0
"""Every code block of README, docs and cards is executed, in order, in a fresh process that talks to a Hub on this
machine only.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..hub import LocalHub
from . import given
from .pages import ROOT, code_blocks
from .session import ELSEWHERE, SHORTER, commands_of


OWN_TEST = {"docs/extending.md"}  # test_extending.py


def pages():
    patterns = ("*.md", "docs/**/*.md", "metrics_hub/*/README.md", "model_cards/*/README.md")
    patterns += ("hf_ganzip/assets/**/*.md", "examples/**/*.md")
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in found)


WITH_CODE = [
    page
    for page in pages()
    if page not in OWN_TEST and any(block.language in ("python", "bash") for block in code_blocks(ROOT / page))
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with LocalHub(given.repositories(folder)) as hub:
        yield hub


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page == "README.md" else pytest.mark.process) for page in WITH_CODE]
)
def test_page(page, hub, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (tmp_path / "work").mkdir()
    environment = hub.environment(tmp_path / "cache") | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0"}
    environment |= {"HF_GANZIP_CACHE": str(tmp_path / "features"), "ACCELERATE_USE_CPU": "true", "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "tests.docs.session", str(ROOT / page)]
    said = subprocess.run(
        command, cwd=tmp_path / "work", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert said.returncode == 0, said.stdout[-5000:]


@pytest.mark.parametrize("page", pages())
def test_blocks_have_a_known_language(page):
    further = "diff" if page in OWN_TEST else "yaml" if page.startswith("model_cards/") else "text"
    allowed = {"python", "bash", "text", further}
    unknown = [(block.line, block.language) for block in code_blocks(ROOT / page) if block.language not in allowed]
    assert not unknown


@pytest.mark.parametrize("page", pages())
def test_pictures_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]*\]\((?!https?:)([^)\s]+)", text)
    assert [each for each in shown if not (ROOT / page).parent.joinpath(each).is_file()] == []


def test_no_exception_is_out_of_date():
    blocks = [
        block for page in WITH_CODE for block in code_blocks(ROOT / page) if block.language in ("bash", "python")
    ]
    text = "\n".join(block.code.replace("\\\n", " ") for block in blocks)
    assert [pattern for pattern in SHORTER if not re.search(pattern, text)] == []
    recipes = "".join(path.read_text() for path in (ROOT / "examples" / "recipes").glob("*.yaml"))
    assert [text for text in given.SHORTER_RECIPES if text not in recipes] == []
    assert [name for name, test in ELSEWHERE.items() if name not in text or not (ROOT / test).is_file()] == []
    assert sum(len(commands_of(block)) for block in blocks if block.language == "bash") > 30
