# SPDX-License-Identifier: Apache-2.0
"""A Hub of its own for every test; pushing without the fresh process and with a small wheel, which other tests have
otherwise.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hf_ganzip as gz
from hf_ganzip.publishing import check

from ..conftest import TINY, tiny_generator, tiny_unet
from ..hub import LocalHub


GENERATORS = [TINY[name] for name in ("generator", "stylegan", "stylegan3", "biggan", "biggan_deep")]
WITHOUT_US = "import sys; sys.modules['hf_ganzip'] = None\n"  # whoever imports it, or a part, gets an ImportError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LocalHub() as found:
        found.use(monkeypatch)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield found


@pytest.fixture
def equal(monkeypatch):
    """Skip the fresh process: other tests have it."""
    found = []
    monkeypatch.setattr("hf_ganzip.publishing.push.run_snippet", lambda snippet: found[-1])
    monkeypatch.setattr("hf_ganzip.publishing.push.run_remote_snippet", lambda *args, **options: found[-1])
    original = check.fingerprint

    def remember(model):
        found.append(original(model))
        return found[-1]

    monkeypatch.setattr("hf_ganzip.publishing.push.fingerprint", remember)


@pytest.fixture
def small_wheel(monkeypatch):
    """No 18 MiB in every upload."""

    def write(folder):
        wheel = Path(folder, "hf_ganzip-0-py3-none-any.whl")
        wheel.write_bytes(b"small")
        return wheel

    monkeypatch.setattr("hf_ganzip.publishing.spaces.write_wheel", write)


def quantized(model=None, bits=4):
    model = model or tiny_generator()
    gz.quantize_(model, bits=bits)
    return model


def pruned_unet():
    unet = tiny_unet()
    gz.prune_(unet, gz.PruneConfig("random", 0.5))
    return quantized(unet)


def in_fresh_process(code, folder, *, without_us=True, **changes):
    """Last line of the standard output; the process cannot import hf_ganzip, or has not."""
    code = (WITHOUT_US if without_us else "") + textwrap.dedent(code)
    environment = os.environ | {"HF_HOME": str(folder / "home")} | changes
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout.strip().rpartition("\n")[2]


def push(model, name="me/small", **options):
    return gz.push_to_hub(model, name, **{"samples": 0} | options)


def commits(hub, name="me/small"):
    return len(hub.repositories[name].commits) - 1 if name in hub.repositories else 0
