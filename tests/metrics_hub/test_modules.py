# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` modules, loaded from their folders without a network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ganzip import metrics

from .conftest import FOLDERS, NAMES, datasets, evaluate, pixels


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # by absolute path, from anywhere
    return lambda name, **options: evaluate.load(str(FOLDERS[name]), cache_dir=str(tmp_path / "cache"), **options)


def test_there_is_one_module_for_each():
    assert NAMES == ["density_coverage", "frechet_distance", "knn_precision_recall", "lsh_precision_recall"]


@pytest.mark.parametrize("name", NAMES)
class TestModule:
    def test_equals_the_function_for_every_kind_of_input(self, name, load, features):
        metric, (real, generated) = load(name), features
        expected = metrics.METRICS[name](real=real, generated=generated)

        def column(a):
            return datasets.Dataset.from_dict({"features": a.tolist()})["features"]

        kinds = (np.asarray, np.ndarray.tolist, torch.from_numpy, lambda a: torch.from_numpy(a).double(), column)
        for convert in kinds:
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
EXTRACT = {"feature_extractor": pixels}


@pytest.mark.parametrize(
    "predictions, references, options, message",
    [
        (ROWS[0], ROWS, {}, r"predictions has shape \(5,\)"),
        (ROWS[:, :4], ROWS, {}, "references has dimension 5 and predictions has dimension 4"),
        (ROWS * np.nan, ROWS, {}, "predictions has NaN or infinity in 9 of 9 rows"),
        (ROWS, ROWS.astype("complex64"), {}, "references is .*; allowed are real numbers"),
        (np.zeros((3, 1, 8, 8), "uint8"), GREY, {}, r"images of shape \(3, 1, 8, 8\), and no feature_extractor= was"),
        (GREY, GREY, {}, "predictions are 3 PIL images, and no feature_extractor= was given"),
        (GREY, [*GREY, Image.new("L", (8, 9))], EXTRACT, "references are images of 2 different"),
        (COLOURS, [*COLOURS, Image.new("RGBA", (8, 8))], EXTRACT, "image 3 has mode RGBA; allowed"),
        (COLOURS, [*COLOURS, Image.new("I;16", (8, 8))], EXTRACT, "image 3 has mode I;16; allowed"),
    ],
)
def test_what_cannot_be_measured_is_refused(load, predictions, references, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        load("knn_precision_recall").compute(predictions=predictions, references=references, **options)


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
