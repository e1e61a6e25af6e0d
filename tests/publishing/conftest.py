# SPDX-License-Identifier: Apache-2.0
"""A Hub of its own for every test; and pushing without the fresh process, which other tests have."""

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
