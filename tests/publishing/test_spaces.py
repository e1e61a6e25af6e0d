# SPDX-License-Identifier: Apache-2.0
"""Metric Spaces, by real HTTP."""

import json
import subprocess
import sys

import pytest

from hf_ganzip.evaluation.install_metrics import metric_folders
from hf_ganzip.publishing.spaces import push_metrics

from ..hub import LocalHub


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")
pytest.importorskip("evaluate")

CODE = """
import evaluate, json
metric = evaluate.load("me/lsh_precision_recall")
found = metric.compute(references=[[0.0, 1.0], [1.0, 0.0]] * 20, predictions=[[0.0, 1.0], [1.0, 0.0]] * 20)
print(json.dumps({"precision": found["lsh_precision"]}))
"""


def test_pushed_metrics_load_from_the_hub_and_then_offline(monkeypatch, tmp_path):
    with LocalHub() as hub:
        hub.use(monkeypatch)
        found = push_metrics("me")
        assert set(found) == {f"me/{name}" for name in metric_folders()}
        for name, entry in found.items():
            repository = hub.repositories[f"spaces/{name}"]
            assert sorted(repository.files) == entry["files"] and not repository.private
            assert {"README.md", "app.py", "requirements.txt", name[3:] + ".py"} <= set(entry["files"])
            assert "tests.py" not in entry["files"] and len(repository.commits) == 2
        first = json.loads(hub.run(CODE, tmp_path / "cache").splitlines()[-1])
    assert first == {"precision": 1.0}
    environment = hub.environment(tmp_path / "cache") | {"HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    again = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads(again.stdout.splitlines()[-1]) == first


def test_a_dry_run_sends_nothing_and_bad_names_are_refused(monkeypatch):
    with LocalHub() as hub:
        hub.use(monkeypatch)
        assert push_metrics("me", ["lsh_precision_recall"], dry_run=True)["me/lsh_precision_recall"]["url"] == ""
        with pytest.raises(ValueError, match="Did you mean"):
            push_metrics("me", ["lsh_precision_recal"])
        with pytest.raises(ValueError, match="name of a user"):
            push_metrics("me/too")
        assert hub.requests == []
