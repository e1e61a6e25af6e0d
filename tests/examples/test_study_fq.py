# SPDX-License-Identifier: Apache-2.0
"""The study as users run it."""

import json
import shutil

import pytest

from .test_study_svs import folder  # noqa: F401
from .test_train_stylegan2 import ROOT, launch


pytestmark = pytest.mark.process


SCRIPT = ROOT / "examples" / "study_fq.py"


def test_smoke_run_and_a_second_that_finds_everything_done(tmp_path, folder):  # noqa: F811
    out = tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--images", folder, "--variants", "BigGAN", "FQ, quantized")
    launch(*flags, script=SCRIPT)
    first = (out / "report.json").read_text()
    report = json.loads(first)
    assert [(run["variant"], run["seed"]) for run in report["runs"]] == [("BigGAN", 0), ("FQ, quantized", 0)]
    plain, quantized = report["runs"]
    for run in report["runs"]:
        assert [point["step"] for point in run["curve"]] == [2, 4] and run["cpu_seconds_per_step"] > 0
        assert all(point["frechet_distance"] > 0 and point["inception_score"] >= 1 for point in run["curve"])
    assert "usage" not in plain and set(quantized["usage"]) == {f"blocks.{i}.0" for i in range(4)}
    text = (out / "report.md").read_text()
    assert "| FQ, quantized | 1 |" in text
    assert all((out / name).is_file() for name in ("curves.png", "per_class.png", "samples.png"))
    assert (out / "FQ-quantized-0" / "codes.png").is_file()
    shutil.rmtree(out / "BigGAN-0" / "checkpoint-4")
    launch(*flags, script=SCRIPT)
    assert (out / "report.json").read_text() == first
    result = launch(*flags, "--num_samples", 160, "--mixed_precision", "no", script=SCRIPT, check=False)
    assert result.returncode and "mixed_precision 'bf16', now 'no'" in result.stderr


def test_ablation_grid(tmp_path, folder):  # noqa: F811
    flags = (
        "--smoke",
        "--output_dir",
        tmp_path / "out",
        "--images",
        folder,
        "--grid",
        "num_codes=2",
        "places=0,1+2",
        "--grid",
        "decay=0.5",
    )
    launch(*flags, script=SCRIPT)
    runs = json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    names = ["BigGAN", "FQ, continuous", "num_codes 2, places 0", "num_codes 2, places 1+2", "decay 0.5"]
    assert [run["variant"] for run in runs] == names
    assert {place: use["codes"] for place, use in runs[3]["usage"].items()} == {"blocks.1.0": 2, "blocks.2.0": 2}
