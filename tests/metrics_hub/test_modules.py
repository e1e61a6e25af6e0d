# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` modules, loaded from their folders without a network."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ganzip import metrics
from hf_ganzip.core.shipped import metric_folders
from hf_ganzip.evaluate_modules.install import install_metrics

from ..processes import run_processes


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party import-time warnings
    evaluate = pytest.importorskip("evaluate")

    import datasets

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


@pytest.fixture
def images():
    """Two sides of 40 grey images, uint8 (2, 40, 1, 6, 6)."""
    return np.random.default_rng(0).integers(0, 256, (2, 40, 1, 6, 6), dtype=np.uint8)


def pixels(batch):
    """An extractor."""
    return batch.flatten(1).float()[:, :9]


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
        keep = staticmethod(lambda *, real, generated: seen.update(locals()) or {})
        monkeypatch.setattr(type(metric), "function", keep)
        metric.compute(predictions=generated, references=real)
        assert seen["real"] is real and seen["generated"] is generated

    def test_images_go_through_an_extractor(self, name, load, images):
        metric = load(name)
        rows = images.reshape(2, 40, 36)[..., :9]
        expected = metric.compute(predictions=rows[0], references=rows[1])
        pictures = [[Image.fromarray(image[0]) for image in side] for side in images]
        kind = datasets.Features({"image": datasets.Image()})
        columns = [datasets.Dataset.from_dict({"image": side}, kind) for side in pictures]
        as_tensors = [column.with_format("torch")["image"] for column in columns]
        for predictions, references in (images, pictures, [column["image"] for column in columns], as_tensors):
            result = metric.compute(predictions=predictions, references=references, feature_extractor=pixels)
            assert result == pytest.approx(expected)
        with pytest.raises(ValueError, match=r"is a whole dataset; name the column: references=ds\['image'\]"):
            metric.compute(predictions=pictures[0], references=columns[1], feature_extractor=pixels)

    def test_a_column_of_features(self, name, load, features):
        metric, (real, generated) = load(name), features
        column = datasets.Dataset.from_dict({"features": real.tolist()})["features"]
        expected = metric.compute(predictions=generated, references=real)
        assert metric.compute(predictions=generated, references=column) == pytest.approx(expected)

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
        with pytest.raises(TypeError, match=f"{name}.add_batch has no argument prediction; allowed are predictions"):
            metric.add_batch(references=real, prediction=generated)
        with pytest.raises(TypeError, match=f"{name}.add has no argument refrence; allowed are prediction and"):
            metric.add(prediction=generated[0], refrence=real[0])
        with pytest.raises(ValueError, match="no predictions and no references"):
            metric.compute()

    def test_the_folder_is_a_space(self, name):
        card = (FOLDERS[name] / "README.md").read_text()
        for head in ("title:", "sdk: gradio", "- evaluate"):
            assert head in card
        for section in ("## Description", "### Inputs", "### Output values", "## Citation"):
            assert section in card
        assert "hf_ganzip" in (FOLDERS[name] / "requirements.txt").read_text()

    def test_the_cases_of_the_folder(self, name, load):
        space: dict = {}
        exec((FOLDERS[name] / "tests.py").read_text(), space)
        assert len(space["test_cases"]) >= 2
        for case in space["test_cases"]:
            sides = {side: case[side] for side in ("predictions", "references")}
            result = load(name).compute(**sides, **case.get("options", {}))
            assert {key: result[key] for key in case["result"]} == pytest.approx(case["result"], abs=1e-9)


GREY, COLOURS = [Image.new("L", (8, 8))] * 3, [Image.new("RGB", (8, 8))] * 3
ROWS = np.random.default_rng(0).normal(size=(9, 5)).astype("float32")


@pytest.mark.parametrize(
    "predictions, references, options, message",
    [
        (ROWS[0], ROWS, {}, r"predictions has shape \(5,\)"),
        (ROWS[:, :4], ROWS, {}, "references has dimension 5 and predictions has dimension 4"),
        (ROWS * np.nan, ROWS, {}, "predictions has NaN or infinity in 9 of 9 rows"),
        (ROWS, ROWS.astype("complex64"), {}, "references is .*; allowed are real numbers"),
        (np.zeros((3, 1, 8, 8), "uint8"), GREY, {}, r"images of shape \(3, 1, 8, 8\), and no feature_extractor= was"),
        (GREY, GREY, {}, "predictions are 3 PIL images, and no feature_extractor= was given"),
        (GREY, [*GREY, Image.new("L", (8, 9))], {"feature_extractor": pixels}, "references are images of 2 different"),
        (
            COLOURS,
            [*COLOURS, Image.new("RGBA", (8, 8))],
            {"feature_extractor": pixels},
            "image 3 has mode RGBA; allowed",
        ),
        (
            COLOURS,
            [*COLOURS, Image.new("I;16", (8, 8))],
            {"feature_extractor": pixels},
            "image 3 has mode I;16; allowed",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(load, predictions, references, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        load("knn_precision_recall").compute(predictions=predictions, references=references, **options)


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
    alone = metrics.lsh_precision_recall(real=real, generated=generated, draws=2, k=2)
    alone |= metrics.knn_precision_recall(real=real, generated=generated, k=2)
    assert {name: result[name] for name in ("lsh_recall", "recall")}.items() <= alone.items()
    for vector in generated:
        combined.add(prediction=vector)
    for vector in real:
        combined.add(reference=vector)
    assert combined.compute(draws=2, k=2) == pytest.approx(result)
    evaluate.save(tmp_path / "result.json", **result)
    assert json.loads((tmp_path / "result.json").read_text())["draws"] == 2


BARE = """m = evaluate.load("knn_precision_recall")
print(m.compute(predictions=[[0., 0], [1, 1]], references=[[0., 0], [1, 1]]))"""


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
        home = tmp_path / "home"
        command = [sys.executable, "-c", f"import {imports}\n{BARE}"]
        environment = os.environ | {"HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert "'precision': 1.0" in found.stdout, found.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.process
    def test_without_evaluate(self, tmp_path):
        code = "import sys; sys.modules['evaluate'] = None; import hf_ganzip as gz; print(gz.__version__)"
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


class TestSeveralProcesses:
    @staticmethod
    def load(tmp_path, rank, count=3, **options):
        options = {"experiment_id": "x/y", "timeout": 20} | options
        folder, cache = str(FOLDERS[options.pop("name", "knn_precision_recall")]), str(tmp_path / "cache")
        return evaluate.load(folder, cache_dir=cache, num_process=count, process_id=rank, **options)

    @pytest.mark.parametrize("name", NAMES)
    def test_threads_that_meet_through_files(self, tmp_path, features, name):
        real, generated = features
        expected = metrics.METRICS[name](real=real, generated=generated)

        def part(rank):
            metric = self.load(tmp_path, rank, name=name)
            for _ in range(2):  # again from the start
                if rank < 2:  # the last one has nothing of one side
                    metric.add_batch(predictions=generated[rank::2])
                found = metric.compute(references=real[rank::3])
            return found

        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(part, range(3)))
        assert found[0] == pytest.approx(expected, rel=1e-9) and found[1:] == [None, None]
        assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}

    def test_images(self, tmp_path, images):
        rows = images.reshape(2, 40, 36)[..., :9].astype("float32")

        def part(rank):
            metric = self.load(tmp_path, rank, 2)
            metric.add_batch(predictions=images[0, rank::2], references=images[1, rank::2])
            return metric.compute(feature_extractor=pixels)

        with ThreadPoolExecutor(2) as threads:
            assert next(threads.map(part, range(2))) == metrics.knn_precision_recall(real=rows[1], generated=rows[0])

    def test_one_that_never_comes(self, tmp_path, features):
        for rank, missing in ((0, "1, 2"), (1, "0")):
            with pytest.raises(ValueError, match=f"experiment_id x/y: process {missing} of 3 did not come"):
                self.load(tmp_path, rank, timeout=0.2).add_batch(references=features[0])

    def test_one_that_died_half_way_and_what_it_left(self, tmp_path, features):
        real, generated = features

        def first(rank):
            metric = self.load(tmp_path, rank, timeout=1)
            metric.add_batch(predictions=generated + 5, references=real)
            if rank != 1:  # it added, and died
                return metric.compute()

        with ThreadPoolExecutor(3) as threads:
            running = [threads.submit(first, rank) for rank in range(3)]
            with pytest.raises(ValueError, match="process 1 of 3 gave nothing: it died"):
                running[0].result()
        gc.collect()  # what a process held is free when it dies
        (folder,) = tmp_path.rglob("x%2Fy-3")
        (left,) = folder.glob("2-*.safetensors")  # of the third
        (folder / "token").write_text(left.name[2:].partition(".")[0])  # process 0 was killed, too

        def again(rank):
            time.sleep(0.3 * (rank == 0))
            return self.load(tmp_path, rank).compute(predictions=generated[rank::3], references=real[rank::3])

        with ThreadPoolExecutor(3) as threads:
            found = next(threads.map(again, range(3)))
        assert found == metrics.knn_precision_recall(real=real, generated=generated)

    def test_two_evaluations_at_the_same_place(self, tmp_path, features):
        def part(rank):
            metric = self.load(tmp_path, rank, 2)
            metric.add_batch(references=features[0])
            if rank:
                with pytest.raises(ValueError, match="another evaluation is process 1 of 2 of it"):
                    self.load(tmp_path, rank, 2).add_batch(references=features[0])
            return metric.compute(predictions=features[1])

        with ThreadPoolExecutor(2) as threads:
            assert [found is None for found in threads.map(part, range(2))] == [False, True]

    @pytest.mark.process
    @pytest.mark.parametrize("name", NAMES)
    def test_torch_distributed(self, tmp_path, features, name):
        found = run_processes(_distributed, 2, tmp_path, name, *features, str(tmp_path / "cache"))
        expected = metrics.METRICS[name](real=features[0], generated=features[1])
        assert found[0] == pytest.approx(expected, rel=1e-9) and found[1] is None
        assert not (tmp_path / "cache").exists()


def _distributed(rank, count, name, real, generated, cache):
    metric = evaluate.load(str(FOLDERS[name]), num_process=count, process_id=rank, cache_dir=cache)
    metric.add_batch(references=real[rank::count])
    return metric.compute(predictions=generated if rank else None)


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
        options = {"capture_output": True, "text": True, "env": environment | changes, "cwd": tmp_path}
        result = subprocess.run([sys.executable, *command], **options)
        assert result.returncode == 0, result.stderr
        return result.stdout

    for _ in range(2):  # again changes nothing
        found = json.loads(run("-m", "hf_ganzip", "metrics", "install", "--json"))
        assert sorted(found) == NAMES and all(Path(folder).is_relative_to(tmp_path) for folder in found.values())
    assert len(list(tmp_path.rglob("lsh_precision_recall.py"))) == 1
    code = f"import evaluate\n{BARE}"
    assert "'precision': 1.0" in run("-c", code)  # offline
    online = {"HF_EVALUATE_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    endpoint = f"http://127.0.0.1:{empty_hub.server_port}"
    assert "'precision': 1.0" in run("-c", code, HF_ENDPOINT=endpoint, HF_UPDATE_DOWNLOAD_COUNTS="0", **online)
    assert any("evaluate-metric/knn_precision_recall" in path for path in empty_hub.asked)
