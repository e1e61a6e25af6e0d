# SPDX-License-Identifier: Apache-2.0
"""A Hub of its own for every test; pushing without the fresh process and with a small wheel, which other tests have
otherwise.
"""

from pathlib import Path

import pytest

from hf_ganzip.publishing import check

from ..hub import LocalHub


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
