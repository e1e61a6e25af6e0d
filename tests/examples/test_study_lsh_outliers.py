# SPDX-License-Identifier: Apache-2.0
"""The study as users run it."""

import json

import pytest

from .conftest import launch


pytestmark = pytest.mark.process


def test_smoke_run_goes_on_where_it_stopped_and_refuses_other_conditions(tmp_path):
    out = tmp_path / "out"
    launch("study_lsh_outliers", "--smoke", "--output_dir", out)
    first = (out / "report.json").read_text()
    report = json.loads(first)
    assert [(run["kind"], run["seed"], run["dim"]) for run in report["runs"]] == [
        ("classifier", 0, 1536),
        ("random, 4096", 0, 4096),
    ]
    for run in report["runs"]:
        assert list(run["clean"]) == list(run["both"]["0.05"]) and len(run["clean"]) == 7
        assert run["clean"]["real images"]["KNN"][1] > run["clean"]["StyleGAN2, half the classes"]["KNN"][1]
        # a digit in the reference is covered by nothing that a generator makes: recall falls, and precision hardly
        # moves
        clean, dirty = (sum(values["real images"]["KNN"]) for values in (run["clean"], run["reference"]["0.05"]))
        assert clean - 0.15 < dirty <= clean + 0.05
    text = (out / "report.md").read_text()
    assert "outliers: digits" in text and "| classifier (d = 1,536) | must stay |" in text
    assert (out / "outliers.png").stat().st_size > 10_000
    (out / "classifier-0.json").unlink()
    result = launch("study_lsh_outliers", "--smoke", "--output_dir", out)
    assert "classifier, seed 0: measured" in result.stdout and "random" not in result.stdout
    assert (out / "report.json").read_text() == first
    refused = launch(
        "study_lsh_outliers", "--smoke", "--output_dir", out, "--outliers", "fashion-mnist-test-5000", check=False
    )
    assert refused.returncode and "outliers 'digits', now 'fashion-mnist-test-5000'" in refused.stderr
