# SPDX-License-Identifier: Apache-2.0
"""The studies of feature quantization as users run them."""

import json
import shutil

import pytest
import torch

from hf_ganzip.assets import asset_path
from hf_ganzip.training.feature_quantizer import FeatureQuantizer

from .conftest import ROOT, defined_by, launch


pytestmark = pytest.mark.process


def test_smoke_run_a_longer_one_and_one_that_finds_everything_done(tmp_path, folder):
    out = tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--images", folder, "--variants", "plain", "FQ, quantized")
    launch("study_fq", *flags, "--max_train_steps", 4)
    report = json.loads((out / "report.json").read_text())
    assert [(run["variant"], run["seed"]) for run in report["runs"]] == [("plain", 0), ("FQ, quantized", 0)]
    plain, quantized = report["runs"]
    for run in report["runs"]:
        ((steps, seconds),) = run["seconds"]
        assert [point["step"] for point in run["curve"]] == [2, 4] and steps == 4 and seconds > 0
        assert all(point["frechet_distance"] > 0 and point["inception_score"] >= 1 for point in run["curve"])
    assert "usage" not in plain and set(quantized["usage"]) == {f"blocks.{i}.0" for i in range(4)}
    text = (out / "report.md").read_text()
    assert "| FQ, quantized | 1 |" in text
    assert all((out / name).is_file() for name in ("curves.png", "codes_in_use.png", "per_class.png", "samples.png"))
    assert (out / "FQ-quantized-0" / "codes.png").is_file()
    assert not plain["codes_in_use"] and [step for step, _ in quantized["codes_in_use"]["blocks.0.0"]] == [4]
    launch("study_fq", *flags)
    text = (out / "report.json").read_text()
    longer = json.loads(text)["runs"]
    assert all([point["step"] for point in run["curve"]] == [2, 4, 6] for run in longer)
    assert [[steps for steps, _ in run["seconds"]] for run in longer] == [[4, 2], [4, 2]]
    assert [run["curve"][:2] for run in longer] == [run["curve"] for run in report["runs"]]
    launch("study_fq", *flags)
    assert (out / "report.json").read_text() == text
    result = launch("study_fq", *flags, "--num_samples", 160, "--mixed_precision", "no", check=False)
    assert result.returncode and "mixed_precision 'bf16', now 'no'" in result.stderr


def test_stylegan2_and_more_seeds_where_only_the_report_is_left(tmp_path, folder):
    out = tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--images", folder, "--architecture", "stylegan2", "--places", 1, 2)
    flags += ("--variants", "plain", "FQ, quantized", "--max_train_steps", 2)
    launch("study_fq", *flags)
    report = json.loads((out / "report.json").read_text())
    assert set(report["runs"][1]["usage"]) == {"b16", "b8"}
    assert "of a StyleGAN2" in (out / "report.md").read_text()
    for run in report["runs"]:
        shutil.rmtree(out / run["folder"])
    result = launch("study_fq", *flags)
    assert json.loads((out / "report.json").read_text())["runs"] == report["runs"] and "train:" not in result.stderr
    finished = defined_by("study_fq")["finished"]
    conditions = report["conditions"]
    assert set(finished(out / "report.json", conditions)) == {("plain", 0), ("FQ, quantized", 0)}
    with pytest.raises(ValueError, match="other conditions .width 1.0, now 0.5.; choose another output_dir"):
        finished(out / "report.json", conditions | {"width": 0.5})
    assert not finished(out / "report.json", conditions | {"max_train_steps": 4})
    other = conditions["options"] | {"FQ, quantized": {"num_codes": 2}}
    assert set(finished(out / "report.json", conditions | {"options": other})) == {("plain", 0)}
    assert not finished(out / "none.json", conditions)


def test_a_run_with_more_steps_is_not_taken_for_a_shorter_one(tmp_path):
    unfinished, done = defined_by("study_fq")["unfinished"], tmp_path / "run.json"
    assert unfinished(done, 4)
    done.write_text('{"steps": 6}')
    assert unfinished(done, 7) and not unfinished(done, 6)
    with pytest.raises(ValueError, match="holds a run of 6 steps; --max_train_steps is 5"):
        unfinished(done, 5)


def test_ablation_grid(tmp_path, folder):
    flags = ("--smoke", "--output_dir", tmp_path / "out", "--images", folder)
    flags += ("--grid", "num_codes=2", "places=0,1+2", "--grid", "decay=0.5")
    launch("study_fq", *flags)
    runs = json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    names = ["plain", "FQ, continuous", "num_codes 2, places 0", "num_codes 2, places 1+2", "decay 0.5"]
    assert [run["variant"] for run in runs] == names
    assert {place: use["codes"] for place, use in runs[3]["usage"].items()} == {"blocks.1.0": 2, "blocks.2.0": 2}


def test_a_frozen_generator_and_a_run_that_finds_another_done(tmp_path, folder, monkeypatch):
    flags = ("--smoke", "--output_dir", tmp_path, "--images", folder, "--generator", "biggan-fashion-mnist")
    launch("study_fq_frozen", *flags, "--grid", "places=3", "--shuffled", "1+3")
    report, shuffled = json.loads((tmp_path / "report.json").read_text()), "errors shuffled, places 1+3"
    assert [run["variant"] for run in report["runs"]] == ["plain", "FQ, quantized", "places 3", shuffled]
    for run, errors in zip(report["runs"], (0, 4, 1, 2)):
        assert [point["step"] for point in run["curve"]] == [2, 4]
        assert all(0 <= point["auc"] <= 1 and len(point) == 3 + errors for point in run["curve"])
    assert 0 < report["runs"][2]["curve"][1]["blocks.3.0"] < 1
    assert "| places 3 | 1 |" in (tmp_path / "report.md").read_text() and (tmp_path / "auc.png").is_file()
    monkeypatch.syspath_prepend(ROOT / "examples")
    same = defined_by("study_fq_frozen")["shuffle_errors"]
    quantizer = FeatureQuantizer(4, 3, settle_steps=0, init="normal", decay=1.0, revive_below=0.0).train()
    h = torch.randn(5, 4, 3, 3, requires_grad=True)
    plain = quantizer(h)
    quantized = quantizer.embed[plain.indices].movedim(-1, 1)
    changed = same(quantizer, (h,), plain).output
    before, after = ((each - h).movedim(1, -1).flatten(0, 2) for each in (quantized, changed))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(before.sort(dim=0).values, after.sort(dim=0).values)
    changed.sum().backward()
    assert (h.grad == 1).all()
    result = launch("study_fq_frozen", *flags, "--grid", "num_codes=2")
    longer = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert longer[:2] == report["runs"][:2] and longer[2]["variant"] == "num_codes 2"
    assert "plain, seed 0" not in result.stdout and "num_codes 2, seed 0: AUC" in result.stdout


def test_codebooks_of_the_study_live_during_the_whole_training(tmp_path):
    """The study's networks on the bundled photographs of clothes, shortened: from the start of every codebook on,
    every logged step uses 0.4 of the codes.
    """
    flags = ("--output_dir", tmp_path / "out", "--images", asset_path("fashion-mnist-test-5000"), "--seeds", 1)
    flags += ("--variants", "FQ, quantized", "--max_train_steps", 60, "--validation_steps", 60, "--num_samples", 200)
    flags += ("--train_batch_size", 16, "--options", "settle_steps=40", "warmup_steps=60", "anneal_steps=20")
    result = launch("study_fq", *flags)
    (run,) = json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    assert set(run["codes_in_use"]) == {f"blocks.{i}.0" for i in range(4)}
    for place, rows in run["codes_in_use"].items():
        assert [step for step, _ in rows] == [30, 40, 50, 60]
        assert min(used for _, used in rows) >= 0.4 * 64, place
    assert "is dead" not in result.stderr
