# SPDX-License-Identifier: Apache-2.0
"""Scripts as users run them, and images for them."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from ..processes import run_script


ROOT = Path(__file__).parents[2]


def launch(name, *arguments, check=True, environment=None):
    """``python examples/NAME.py ARGUMENTS`` in a process of its own, with other variables in a fresh one."""
    script = ROOT / "examples" / f"{name}.py"
    if environment is None:
        return run_script(script, *arguments, check=check)
    environment = environment | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not check or result.returncode == 0, result.stderr
    return result


def checkpoints(folder):
    """Names of the checkpoints of a run."""
    return sorted(path.name for path in folder.glob("checkpoint*"))


def defined_by(name):
    """What a script defines, by name."""
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


@pytest.fixture
def folder(tmp_path):
    """Of 24 grey images of two classes."""
    random = numpy.random.default_rng(0)
    for index in range(24):
        path = tmp_path / "images" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32), dtype="uint8")).save(path)
    return tmp_path / "images"
