# SPDX-License-Identifier: Apache-2.0
"""Scripts as users run them, and images for them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from ..processes import run_script


ROOT = Path(__file__).parents[2]
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")


def launch(script, *arguments, check=True, environment=None, launcher=()):
    """A script in a process of its own, in a fresh one with other variables or with ``launcher=ACCELERATE``, as
    ``accelerate launch`` runs it.
    """
    if environment is None and not launcher:
        return run_script(script, *arguments, check=check)
    command = [sys.executable, *launcher]
    environment = (environment or os.environ) | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture
def folder(tmp_path):
    """Of 24 grey images of two classes."""
    random = numpy.random.default_rng(0)
    for index in range(24):
        path = tmp_path / "images" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32), dtype="uint8")).save(path)
    return tmp_path / "images"
