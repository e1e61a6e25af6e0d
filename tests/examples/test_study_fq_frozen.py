# SPDX-License-Identifier: Apache-2.0
"""The study as users run it."""

import json

import pytest
import torch

from hf_ganzip.training.feature_quantizer import FeatureQuantizer

from .conftest import ROOT, defined_by, launch


pytestmark = pytest.mark.process


SHUFFLED = "errors shuffled, places 1+3"


def test_smoke_run_and_one_that_finds_a_run_done(tmp_path, folder, monkeypatch):
    flags = ("--smoke", "--output_dir", tmp_path, "--images", folder, "--generator", "biggan-fashion-mnist")
    launch("study_fq_frozen", *flags, "--grid", "places=3", "--shuffled", "1+3")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [run["variant"] for run in report["runs"]] == ["plain", "FQ, quantized", "places 3", SHUFFLED]
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
