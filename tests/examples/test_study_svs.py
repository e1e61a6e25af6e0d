# SPDX-License-Identifier: Apache-2.0
"""The study as users run it."""

import json

import numpy
import pytest
from PIL import Image

from .test_train_stylegan2 import ROOT, launch


pytestmark = pytest.mark.process


@pytest.fixture
def folder(tmp_path):
    random = numpy.random.default_rng(0)
    for index in range(24):
        path = tmp_path / "images" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32), dtype="uint8")).save(path)
    return tmp_path / "images"


def test_smoke_run_and_a_second_that_finds_everything_done(tmp_path, folder):
    flags = (
        "--smoke",
        "--output_dir",
        tmp_path / "out",
        "--images",
        folder,
        "--variants",
        "pruned weights",
        "SVS sqrt",
    )
    for _ in range(2):
        launch(*flags, script=ROOT / "examples" / "study_svs.py")
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert [(run["variant"], run["seed"]) for run in report["runs"]] == [("pruned weights", 0), ("SVS sqrt", 0)]
        for run in report["runs"]:
            assert [point["step"] for point in run["curve"]] == [0, 2, 4]
            assert all(point["frechet_distance"] > 0 and point["condition"] >= 1 for point in run["curve"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| SVS sqrt | 1 |" in text and (tmp_path / "out" / "curves.png").is_file()
    assert (tmp_path / "out" / "spectra.png").is_file() and report["dense"]["sigma_0.000"] == 1


def test_diffusion_models_are_judged_by_their_noise_error_too(tmp_path, folder):
    out = tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--images", folder, "--model", "ddpm-fashion-mnist", "--ratio", "0.5")
    launch(*flags, "--variants", "SVS sqrt", script=ROOT / "examples" / "study_svs.py")
    report = json.loads((out / "report.json").read_text())
    (run,) = report["runs"]
    assert [point["step"] for point in run["curve"]] == [0, 2, 4]
    assert 0 < report["dense"]["noise_error"] < run["curve"][0]["noise_error"] < 2
    assert "noise error after" in (out / "report.md").read_text()
