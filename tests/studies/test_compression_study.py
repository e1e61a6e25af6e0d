# SPDX-License-Identifier: Apache-2.0
"""A study in a smoke size on the bundled generator."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ganzip.assets import asset_path
from hf_ganzip.integration.opening import load_model
from hf_ganzip.studies import compression as compression_study
from hf_ganzip.studies import compression_drawing as study_drawing
from hf_ganzip.studies.compression import run_study
from hf_ganzip.studies.compression_config import StudyConfig
from hf_ganzip.studies.compression_report import write_report


REFERENCE = "fashion-mnist-test-5000"
MODEL = asset_path("stylegan2-fashion-mnist")
IMAGES = asset_path(REFERENCE)
QUICK = {"methods": ("linear", "latent_distill mixed"), "bits": (6, 4, 2), "num_samples": 150, "draws": 2}
QUICK |= {"method_options": {"latent_distill": {"steps": 1, "batch_size": 2, "base": "codebook", "progress": False}}}


@pytest.mark.process
def test_figures_report_and_pictures_of_a_study(tmp_path):
    result = run_study(MODEL, REFERENCE, tmp_path, StudyConfig(**QUICK), progress=False)
    rows = {(row["method"], row["bits"]): row for row in result["rows"]}
    assert list(rows) == [("full", 32), *((name, bits) for name in QUICK["methods"] for bits in QUICK["bits"])]
    assert len(result["draws"]) == 2 * len(result["rows"]) == 2 * len(rows)
    for setting, row in rows.items():
        own = [d for d in result["draws"] if (d["method"], d["bits"]) == setting]
        assert row["recall"] == pytest.approx(sum(d["recall"] for d in own) / 2)
        assert row["recall_std"] == pytest.approx(abs(own[0]["recall"] - own[1]["recall"]) / 2**0.5)
        assert len(row["realism_per_class"]) == 10 and row["n_draws"] == 2
    for bits in QUICK["bits"]:  # mixed bits take no more bytes than equal ones
        assert bits - 0.35 < rows["latent_distill mixed", bits]["bits_per_weight"] < bits + 0.08
    assert rows["latent_distill mixed", 4]["frechet_distance"] < rows["linear", 4]["frechet_distance"]

    write_report(result, tmp_path, "A title")
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# A title") and "| Q | 4 |" in text and "±" in text and "digest" in text
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["rows"] == result["rows"] and saved["correlations"]["linear"] and saved["pareto_front"]
    for name in ("samples", "mean_images", "precision_recall", "pareto", "realism"):
        assert f"({name}.png)" in text
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 60


@pytest.mark.parametrize("wrong", [{"methods": ("acik",)}, {"methods": ()}, {"draws": 0}, {"bits": ()}])
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match="study: "):
        StudyConfig(**wrong)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"latent_distil": {"steps": 3}}, "options of 'latent_distil', which is not studied; allowed are aciq, gptq$"),
        ({"linear": {}}, "options of 'linear', which is not studied"),
        ({"gptq": {"stepz": 3}}, "stepz"),
    ],
)
def test_options_that_no_setting_takes_are_refused(options, message):
    StudyConfig(methods=("aciq", "gptq mixed"), method_options={"gptq": {"batches": 1}})
    with pytest.raises(ValueError, match=message.replace("$", r"\.$")):
        StudyConfig(methods=("aciq", "gptq mixed"), method_options=options)


def test_too_few_images_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(study_drawing, "sample_images", None)
    monkeypatch.setattr(compression_study, "extract_features", None)
    with pytest.raises(ValueError, match="distance of 128 features needs more than 128 of each, and here are 100"):
        run_study(MODEL, REFERENCE, tmp_path, StudyConfig(**QUICK | {"num_samples": 100}), progress=False)


def test_a_reference_by_path_is_as_good_as_a_bundled_one(tmp_path):
    by_name, by_path = (compression_study._reference(str(each), load_model(MODEL)) for each in (REFERENCE, IMAGES))
    assert torch.equal(by_name[0], by_path[0]) and torch.equal(by_name[1], by_path[1])
    assert by_name[0].shape == (5000, 1, 32, 32) and by_name[1].bincount().tolist() == [500] * 10
    np.save(tmp_path / "images.npy", by_name[0][:3, :, 2:30, 2:30].numpy())
    images, labels = compression_study._reference(str(tmp_path / "images.npy"), load_model(MODEL))
    assert torch.equal(images, by_name[0][:3]) and labels is None


def test_features_alone_are_no_reference(tmp_path):
    np.save(tmp_path / "features.npy", torch.randn(50, 4).numpy())
    with pytest.raises(ValueError, match="holds no images"):
        run_study(MODEL, str(tmp_path / "features.npy"), tmp_path / "out", StudyConfig(**QUICK), progress=False)
