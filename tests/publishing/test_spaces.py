# SPDX-License-Identifier: Apache-2.0
"""Metric Spaces, by real HTTP; test_commands.py loads them."""

import pytest

from hf_ganzip.publishing.spaces import push_metrics
from hf_ganzip.shipped import metric_folders

from ..hub import LocalHub


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")


def test_each_is_a_space_in_one_commit(monkeypatch):
    with LocalHub() as hub:
        hub.use(monkeypatch)
        found = push_metrics("me")
        assert set(found) == {f"me/{name}" for name in metric_folders()}
        for name, entry in found.items():
            repository = hub.repositories[f"spaces/{name}"]
            assert sorted(repository.files) == entry["files"] and not repository.private
            assert {"README.md", "app.py", "requirements.txt", name[3:] + ".py"} <= set(entry["files"])
            assert "tests.py" not in entry["files"] and len(repository.commits) == 2


def test_a_dry_run_sends_nothing_and_bad_names_are_refused(monkeypatch):
    with LocalHub() as hub:
        hub.use(monkeypatch)
        assert push_metrics("me", ["lsh_precision_recall"], dry_run=True)["me/lsh_precision_recall"]["url"] == ""
        with pytest.raises(ValueError, match="Did you mean"):
            push_metrics("me", ["lsh_precision_recal"])
        with pytest.raises(ValueError, match="name of a user"):
            push_metrics("me/too")
        assert hub.requests == []
