# SPDX-License-Identifier: Apache-2.0
"""The `evaluate` module, loaded from its folder without a network."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ganzip.metrics import lsh_precision_recall


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party import-time warnings
    evaluate = pytest.importorskip("evaluate")

FOLDER = Path(__file__).parents[2] / "metrics_hub" / "lsh_precision_recall"


@pytest.fixture
def metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # by absolute path, from anywhere
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 5)).astype("float32"), random.normal(size=(43, 5)).astype("float32")


def test_equals_the_function_for_every_kind_of_input(metric, features):
    real, generated = features
    expected = lsh_precision_recall(real=real, generated=generated, k=2, draws=3, seed=4)
    for convert in (lambda a: a, lambda a: a.tolist(), torch.from_numpy):
        result = metric.compute(predictions=convert(generated), references=convert(real), k=2, draws=3, seed=4)
        assert result == pytest.approx(expected)
    assert json.dumps(result)


def test_predictions_are_generated(metric):
    random = np.random.default_rng(0)
    real, collapsed = random.normal(size=(200, 4)), np.tile(random.normal(size=(1, 4)), (200, 1))
    collapsed += 1e-3 * random.normal(size=(200, 4))
    result = metric.compute(predictions=collapsed, references=real, num_hyperplanes=4)
    assert result["lsh_precision"] > 0.9 > 0.3 > result["lsh_recall"]


def test_streaming_in_any_split_equals_one_call(metric, features):
    real, generated = features
    expected = metric.compute(predictions=generated, references=real)
    metric.add_batch(references=real[:10])
    metric.add_batch(predictions=generated[:40], references=real[10:11])
    metric.add(prediction=generated[40])
    metric.add_batch(predictions=generated[41:])
    metric.add_batch(references=real[11:])
    assert metric.compute() == expected
    with pytest.raises(ValueError, match="no predictions and no references were given"):
        metric.compute()


def test_combine_and_save(metric, features, tmp_path):
    real, generated = features
    combined = evaluate.combine({"lsh": metric})
    result = combined.compute(predictions=generated, references=real, draws=2)
    assert result["lsh_recall"] == lsh_precision_recall(real=real, generated=generated, draws=2)["lsh_recall"]
    evaluate.save(tmp_path / "result.json", **result)
    assert json.loads((tmp_path / "result.json").read_text())["draws"] == 2


def test_errors(metric, features):
    real, generated = features
    with pytest.raises(ValueError, match=r"predictions has shape \(5,\)"):
        metric.add_batch(predictions=generated[0])
    with pytest.raises(ValueError, match="generated has dimension 4"):
        metric.compute(predictions=generated[:, :4], references=real)


def test_folder_is_a_space():
    card = (FOLDER / "README.md").read_text()
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
    assert "hf_ganzip" in (FOLDER / "requirements.txt").read_text()
