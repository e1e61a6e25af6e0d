# SPDX-License-Identifier: Apache-2.0
"""The study as users run it."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DModel
from torch.utils.data import TensorDataset

from hf_ganzip.core.record import recorded_steps
from hf_ganzip.models import StyleGAN3Generator
from hf_ganzip.scripts.svs_report import write_report

from .conftest import ROOT, defined_by, launch


pytestmark = pytest.mark.process


def test_smoke_run_and_a_second_that_finds_everything_in_the_report(tmp_path, folder):
    flags = ("--smoke", "--output_dir", tmp_path / "out", "--images", folder)
    flags += ("--variants", "pruned weights", "SVS sqrt")
    for again in (False, True):
        result = launch("study_svs", *flags)
        assert ("train:" in result.stderr) != again
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert [(run["variant"], run["seed"]) for run in report["runs"]] == [("pruned weights", 0), ("SVS sqrt", 0)]
        for run in report["runs"]:
            assert [point["step"] for point in run["curve"]] == [0, 2, 4]
            assert all(point["frechet_distance"] > 0 and point["condition"] >= 1 for point in run["curve"])
        for run in (tmp_path / "out").glob("*-0"):
            shutil.rmtree(run)  # the report is enough
    refused = launch("study_svs", *flags, "--ratio", "0.3", check=False)  # and not overwritten
    assert refused.returncode and "report.json holds what was made under other conditions (ratio 0.7" in refused.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| SVS sqrt | 1 |" in text and (tmp_path / "out" / "curves.png").is_file()
    assert (tmp_path / "out" / "spectra.png").is_file() and report["dense"]["sigma_0.000"] == 1


def test_diffusion_models_are_judged_by_their_noise_error_and_likeness_to_the_dense_one(tmp_path, folder):
    out = tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--images", folder, "--model", "ddpm-fashion-mnist", "--ratio", "0.5")
    flags += ("--variants", "pruned weights", "SVS sqrt, norms kept", "--first_seed", "9")
    flags += ("--distillation_weight", "0.5")
    launch("study_svs", *flags)
    report = json.loads((out / "report.json").read_text())
    plain, scaled = report["runs"]
    assert plain["seed"] == scaled["seed"] == 9 and report["dense"]["ssim"] == pytest.approx(1)
    for run in report["runs"]:
        assert [point["step"] for point in run["curve"]] == [0, 2, 4]
        assert 0 < report["dense"]["noise_error"] < run["curve"][0]["noise_error"] < 2
        assert all(point["ssim"] < 0.9 for point in run["curve"])
    assert scaled["curve"][0]["condition"] < plain["curve"][0]["condition"]
    assert '"distillation"' in (out / "pruned-weights-9" / "log.jsonl").read_text()
    text = (out / "report.md").read_text()
    assert "noise error after" in text and text.count("| SVS sqrt, norms kept | 1 |") == 4
    assert (out / "differences.png").is_file()
    result = launch("study_svs", *flags[:-1], "0.7", check=False)
    assert result.returncode and "distillation_weight 0.5, now 0.7" in result.stderr


def test_a_stylegan3_of_the_example(tmp_path, folder):
    launch("train_stylegan3", "--smoke", "--train_data_dir", folder, "--output_dir", tmp_path / "full")
    model, out = tmp_path / "full" / "generator", tmp_path / "out"
    config = StyleGAN3Generator.from_pretrained(model).config
    assert (config.num_classes, config.num_layers, config.margin_size) == (2, 6, 2)
    flags = ("--images", folder, "--model", model, "--ratio", "0.2", "--variants", "SVS sqrt")
    launch("study_svs", "--smoke", "--output_dir", out, *flags)
    (run,) = json.loads((out / "report.json").read_text())["runs"]
    assert [point["step"] for point in run["curve"]] == [0, 2, 4]
    log = (out / "SVS-sqrt-0" / "log.jsonl").read_text()
    assert '"relation"' in log and '"path"' not in log  # as published


@pytest.fixture
def study():
    return defined_by("study_svs")


def start(study, variant: str, *flags: str):
    given = ("--smoke", "--output_dir", "-", "--images", "-", "--model", "ddpm-fashion-mnist")
    args = study["parse_args"]([*given, *flags])
    images = torch.arange(12 * 32 * 32, dtype=torch.uint8).view(12, 1, 32, 32)
    return study["compressed"](args, variant, 0, TensorDataset(images, torch.arange(12) % 3))


def test_options_of_refining_change_what_they_name(study):
    plain, sqrt, kept_biases, kept_norms, reset = (
        dict(start(study, variant).named_parameters())
        for variant in ("pruned weights", "SVS sqrt", "SVS sqrt, biases kept", "SVS sqrt, norms kept", "norms reset")
    )
    weight, bias, norm = "conv_in.weight", "conv_in.bias", "conv_norm_out.weight"
    assert torch.equal(kept_biases[bias], plain[bias]) and not torch.equal(sqrt[bias], plain[bias])
    assert torch.equal(kept_biases[weight], sqrt[weight]) and torch.equal(kept_norms[weight], sqrt[weight])
    assert torch.equal(kept_norms[norm], plain[norm]) and not torch.equal(plain[norm], sqrt[norm])
    assert torch.equal(reset[norm], sqrt[norm]) and torch.equal(reset[bias], plain[bias])
    torch.testing.assert_close(reset[weight], plain[weight], rtol=0, atol=1e-6)


def test_class_conditional_diffusion_models_get_their_classes(study, tmp_path):
    torch.manual_seed(0)
    options = {"block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    options |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "in_channels": 1, "out_channels": 1}
    unet = UNet2DModel(32, **options, layers_per_block=1, num_class_embeds=3)
    unet.save_pretrained(tmp_path)
    pruned = start(study, "SVS sqrt", "--model", str(tmp_path))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in unet.parameters())
    images = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8)
    errors = {study["noise_error"](pruned, images, torch.full((3,), label)) for label in range(3)}
    assert len(errors) == 3


def test_criteria_get_the_options_that_they_have(study):
    kept = {
        name: recorded_steps(start(study, "pruned weights", "--criterion", name))[0]["options"]
        for name in ("diff_prune", "taylor", "magnitude", "random")
    }
    assert all(options["criterion"] == name for name, options in kept.items())
    timesteps = [options["criterion_options"].get("timesteps") for options in kept.values()]
    assert timesteps == [3, 3, None, None]


@pytest.mark.parametrize("folder", sorted((ROOT / "docs" / "studies").glob("svs-*")), ids=lambda folder: folder.name)
def test_reports_are_those_of_their_figures(tmp_path, folder):
    write_report(json.loads((folder / "report.json").read_text()), tmp_path)
    assert (tmp_path / "report.md").read_text() == (folder / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} <= {path.name for path in folder.iterdir()}
