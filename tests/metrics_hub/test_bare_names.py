# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` modules by bare names: in this process, in others, after installing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ganzip import metrics
from hf_ganzip.evaluate_modules.install import install_metrics

from ..hub import LocalHub
from .conftest import FOLDERS, NAMES, evaluate


BARE = """m = evaluate.load("knn_precision_recall")
print(m.compute(predictions=[[0., 0], [1, 1]], references=[[0., 0], [1, 1]]))"""


def run(tmp_path, *command, **changes):
    """What Python says in a process that has the libraries' folders to itself."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("HF_MODULES_CACHE", None)
    options = {"capture_output": True, "text": True, "env": environment | changes, "cwd": tmp_path}
    result = subprocess.run([sys.executable, *command], **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


class TestBareNames:
    """``hf_ganzip`` is imported in this process."""

    def test_of_another_folder_and_kind(self, tmp_path, monkeypatch, features):
        monkeypatch.chdir(tmp_path)
        assert type(evaluate.load("frechet_distance")).__module__.startswith("hf_ganzip.metrics_hub")
        for elsewhere in ({"module_type": "comparison"}, {"revision": "main"}):
            with pytest.raises((FileNotFoundError, ConnectionError)):
                evaluate.load("frechet_distance", **elsewhere)
        with pytest.raises((FileNotFoundError, ConnectionError)):
            evaluate.load("evaluate-metric/frechet_distance")

    def test_a_folder_of_the_user_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "frechet_distance").mkdir()
        text = (FOLDERS["frechet_distance"] / "frechet_distance.py").read_text()
        (tmp_path / "frechet_distance/frechet_distance.py").write_text(text.replace("class Frechet", "class Own"))
        assert type(evaluate.load("frechet_distance")).__name__ == "OwnDistance"

    def test_modules_that_were_published_before_their_base_moved(self, tmp_path, features):
        text = (FOLDERS["frechet_distance"] / "frechet_distance.py").read_text()
        text = text.replace("hf_ganzip.evaluate_modules", "hf_ganzip.evaluation")
        (tmp_path / "earlier.py").write_text(text.replace("feature_metric", "evaluate_module"))
        metric, (real, generated) = evaluate.load(str(tmp_path / "earlier.py")), features
        expected = metrics.frechet_distance(real=real, generated=generated)
        assert metric.compute(predictions=generated, references=real) == expected

    def test_a_foreign_module_of_the_name_is_not_overwritten(self, tmp_path, monkeypatch):
        monkeypatch.setattr("evaluate.loading.init_dynamic_modules", lambda: str(tmp_path))
        foreign = tmp_path / f"metrics/evaluate-metric--frechet_distance/{'0' * 64}/frechet_distance.py"
        foreign.parent.mkdir(parents=True)
        foreign.write_text("import evaluate")
        with pytest.raises(ValueError, match="cached a metric frechet_distance that is not of hf_ganzip"):
            install_metrics()
        assert [path.name for path in tmp_path.rglob("*.py")] == ["frechet_distance.py"]

    @pytest.mark.process
    @pytest.mark.parametrize("imports", ["hf_ganzip, evaluate", "evaluate, hf_ganzip"])
    def test_offline_and_nothing_is_written(self, tmp_path, imports):
        assert "'precision': 1.0" in run(tmp_path, "-c", f"import {imports}\n{BARE}")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.process
    def test_without_evaluate(self, tmp_path):
        code = "import sys; sys.modules['evaluate'] = None; import hf_ganzip as gz; print(gz.__version__)"
        run(tmp_path, "-c", code)


@pytest.mark.process
def test_bare_names_work_after_installing(tmp_path):
    for _ in range(2):  # again changes nothing
        found = json.loads(run(tmp_path, "-m", "hf_ganzip", "metrics", "install", "--json"))
        assert sorted(found) == NAMES and all(Path(folder).is_relative_to(tmp_path) for folder in found.values())
    assert len(list(tmp_path.rglob("lsh_precision_recall.py"))) == 1
    code = f"import evaluate\n{BARE}"
    assert "'precision': 1.0" in run(tmp_path, "-c", code)  # offline
    online = dict.fromkeys(["HF_EVALUATE_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"], "0")
    with LocalHub() as empty:
        online |= {"HF_ENDPOINT": empty.url, "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        assert "'precision': 1.0" in run(tmp_path, "-c", code, **online)
        assert any("evaluate-metric/knn_precision_recall" in request for request in empty.requests)
