# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md, followed to the letter in a copy of the tree."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from .pages import ROOT, code_blocks


pytestmark = pytest.mark.process


@pytest.mark.timeout(600)
def test_every_step(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("hf_ganzip", "tests", "metrics_hub"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    commands = []
    for block in code_blocks(ROOT / "docs" / "extending.md"):
        if block.language == "python":
            assert not (tmp_path / block.title).exists()
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "diff":
            command = ["git", "apply", "--whitespace=error", "-"]
            applied = subprocess.run(command, cwd=tmp_path, input=block.code, text=True, capture_output=True)
            assert applied.returncode == 0, f"line {block.line}: {applied.stderr}"
        else:
            commands += block.code.splitlines()
    assert len(commands) == 7
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pytest"
        run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        assert " passed" in result.stdout
