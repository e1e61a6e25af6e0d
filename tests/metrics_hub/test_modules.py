# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` modules, loaded from their folders without a network."""

import json
import os
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ganzip import metrics
from hf_ganzip.evaluation.install_metrics import metric_folders


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party import-time warnings
    evaluate = pytest.importorskip("evaluate")

FOLDERS = metric_folders()
NAMES = sorted(FOLDERS)


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # by absolute path, from anywhere
    return lambda name, **options: evaluate.load(str(FOLDERS[name]), cache_dir=str(tmp_path / "cache"), **options)


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 5)).astype("float32"), random.normal(size=(43, 5)).astype("float32")


def test_there_is_one_module_for_each():
    assert NAMES == ["density_coverage", "frechet_distance", "knn_precision_recall", "lsh_precision_recall"]


@pytest.mark.parametrize("name", NAMES)
class TestModule:
    def test_equals_the_function_for_every_kind_of_input(self, name, load, features):
        metric, (real, generated) = load(name), features
        expected = metrics.METRICS[name](real=real, generated=generated)
        for convert in (lambda a: a, lambda a: a.tolist(), torch.from_numpy, lambda a: torch.from_numpy(a).double()):
            result = metric.compute(predictions=convert(generated), references=convert(real))
            assert result == pytest.approx(expected)
        assert json.loads(json.dumps(result)) == result

    def test_streaming_in_any_split_equals_one_call(self, name, load, features):
        metric, (real, generated) = load(name), features
        expected = metric.compute(predictions=generated, references=real)
        metric.add_batch(references=real[:10])
        metric.add_batch(predictions=torch.from_numpy(generated[:40]), references=real[10:11])
        metric.add(prediction=generated[40])
        metric.add_batch(predictions=generated[41:])
        metric.add_batch(references=real[11:])
        assert metric.compute() == pytest.approx(expected, rel=1e-9)
        with pytest.raises(ValueError, match="no predictions and no references were given"):
            metric.compute()

    def test_one_batch_is_not_copied(self, name, load, features, monkeypatch):
        metric, (real, generated) = load(name), features
        seen = {}
        monkeypatch.setattr(
            type(metric), "function", staticmethod(lambda *, real, generated: seen.update(locals()) or {})
        )
        metric.compute(predictions=generated, references=real)
        assert seen["real"] is real and seen["generated"] is generated

    def test_images_go_through_an_extractor(self, name, load):
        metric, random = load(name), np.random.default_rng(0)
        images = random.integers(0, 256, (2, 40, 1, 6, 6), dtype=np.uint8)

        def extractor(batch):
            return batch.flatten(1).float()[:, :9]

        expected = metric.compute(
            predictions=images[0].reshape(40, 36)[:, :9], references=images[1].reshape(40, 36)[:, :9]
        )
        pictures = [[Image.fromarray(image[0]) for image in side] for side in images]
        for predictions, references in (images, pictures):
            result = metric.compute(predictions=predictions, references=references, feature_extractor=extractor)
            assert result == pytest.approx(expected)

    def test_options_of_other_metrics_are_ignored_and_typos_are_not(self, name, load, features):
        metric, (real, generated) = load(name), features
        everything = {"k": 2, "draws": 2, "allow_singular": True}
        function = metrics.METRICS[name]
        accepted = {key: value for key, value in everything.items() if key in function.__kwdefaults__}
        assert accepted
        result = metric.compute(predictions=generated, references=real, **everything)
        assert result == pytest.approx(function(real=real, generated=generated, **accepted))
        with pytest.raises(TypeError, match=f"{name} has no option neighbours"):
            metric.compute(predictions=generated, references=real, neighbours=3)

    def test_misspelt_arguments_are_refused(self, name, load, features):
        metric, (real, generated) = load(name), features
        with pytest.raises(
            TypeError, match=f"{name}.add_batch has no argument prediction; allowed are predictions and"
        ):
            metric.add_batch(references=real, prediction=generated)
        with pytest.raises(
            TypeError, match=f"{name}.add has no argument refrence; allowed are prediction and reference"
        ):
            metric.add(prediction=generated[0], refrence=real[0])
        with pytest.raises(ValueError, match="no predictions and no references"):
            metric.compute()

    def test_pictures_that_would_lose_something_are_refused(self, name, load):
        metric, good = load(name), [Image.new("RGB", (8, 8))] * 3
        for mode in ("RGBA", "I;16"):
            bad = [*good, Image.new(mode, (8, 8))]
            with pytest.raises(
                ValueError, match=f"references, image 3 has mode {mode}; allowed are 8-bit grey and RGB"
            ):
                metric.compute(predictions=good, references=bad, feature_extractor=lambda batch: batch.flatten(1))

    def test_errors(self, name, load, features):
        metric, (real, generated) = load(name), features
        with pytest.raises(ValueError, match=r"predictions has shape \(5,\)"):
            metric.add_batch(predictions=generated[0])
        with pytest.raises(ValueError, match="generated has dimension 4"):
            metric.compute(predictions=generated[:, :4], references=real)
        with pytest.raises(ValueError, match="num_process is 2; allowed is 1"):
            load(name, num_process=2, process_id=0, experiment_id="x")

    def test_the_folder_is_a_space(self, name):
        card = (FOLDERS[name] / "README.md").read_text()
        for needle in (
            "title:",
            "sdk: gradio",
            "- evaluate",
            "## Description",
            "### Inputs",
            "### Output values",
            "## Citation",
        ):
            assert needle in card
        assert "hf_ganzip" in (FOLDERS[name] / "requirements.txt").read_text()

    def test_the_cases_of_the_folder(self, name, load):
        space: dict = {}
        exec((FOLDERS[name] / "tests.py").read_text(), space)
        assert len(space["test_cases"]) >= 2
        for case in space["test_cases"]:
            result = load(name).compute(
                predictions=case["predictions"], references=case["references"], **case.get("options", {})
            )
            assert {key: result[key] for key in case["result"]} == pytest.approx(case["result"], abs=1e-9)


def test_predictions_are_generated(load):
    random = np.random.default_rng(0)
    real, collapsed = random.normal(size=(200, 4)), np.tile(random.normal(size=(1, 4)), (200, 1))
    collapsed += 1e-3 * random.normal(size=(200, 4))
    result = load("lsh_precision_recall").compute(predictions=collapsed, references=real, num_hyperplanes=4)
    assert result["lsh_precision"] > 0.9 > 0.3 > result["lsh_recall"]
    result = load("knn_precision_recall").compute(predictions=collapsed, references=real)
    assert result["precision"] > 0.9 > 0.3 > result["recall"]


def test_combine_and_save(load, features, tmp_path):
    real, generated = features
    combined = evaluate.combine([load("lsh_precision_recall"), load("knn_precision_recall")])
    result = combined.compute(predictions=generated, references=real, draws=2, k=2)
    assert (
        result["lsh_recall"]
        == metrics.lsh_precision_recall(real=real, generated=generated, draws=2, k=2)["lsh_recall"]
    )
    assert result["recall"] == metrics.knn_precision_recall(real=real, generated=generated, k=2)["recall"]
    for vector in generated:
        combined.add(prediction=vector)
    for vector in real:
        combined.add(reference=vector)
    assert combined.compute(draws=2, k=2) == pytest.approx(result)
    evaluate.save(tmp_path / "result.json", **result)
    assert json.loads((tmp_path / "result.json").read_text())["draws"] == 2


class NotThere(BaseHTTPRequestHandler):
    """A Hub that has nothing."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def empty_hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), NotThere) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.process
def test_bare_names_work_after_installing(tmp_path, empty_hub):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("HF_MODULES_CACHE", None)

    def run(*command, **changes):
        result = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment | changes, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    for _ in range(2):  # again changes nothing
        found = json.loads(run("-m", "hf_ganzip", "metrics", "install", "--json"))
        assert sorted(found) == NAMES and all(Path(folder).is_relative_to(tmp_path) for folder in found.values())
    assert len(list(tmp_path.rglob("lsh_precision_recall.py"))) == 1
    code = (
        "import evaluate; m = evaluate.load('knn_precision_recall'); "
        "print(m.compute(predictions=[[0., 0], [1, 1]], references=[[0., 0], [1, 1]]))"
    )
    assert "'precision': 1.0" in run("-c", code)  # offline
    online = {"HF_EVALUATE_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    endpoint = f"http://127.0.0.1:{empty_hub.server_port}"
    assert "'precision': 1.0" in run("-c", code, HF_ENDPOINT=endpoint, HF_UPDATE_DOWNLOAD_COUNTS="0", **online)
    assert any("evaluate-metric/knn_precision_recall" in path for path in empty_hub.asked)
