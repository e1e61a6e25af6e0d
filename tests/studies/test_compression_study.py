# SPDX-License-Identifier: Apache-2.0
"""Studies in a smoke size: of the bundled generator, of a small diffusion pipeline with random weights, and what old
studies of GANs still are.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline
from PIL import Image

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.diffusion_sampling import sample_diffusion
from hf_ganzip.studies import compression as compression_study
from hf_ganzip.studies import compression_drawing as study_drawing
from hf_ganzip.studies.compression import Compressor, run_study
from hf_ganzip.studies.compression_config import OF_DIFFUSION, OF_GANS, ROTATIONS, VARIANTS, StudyConfig
from hf_ganzip.studies.compression_drawing import Drawing
from hf_ganzip.studies.compression_report import write_report

from ..conftest import tiny_unet


REFERENCE = "fashion-mnist-test-5000"
MODEL = asset_path("stylegan2-fashion-mnist")
IMAGES = asset_path(REFERENCE)
PUBLISHED = Path(__file__).parents[2] / "docs/studies/stylegan2-fashion-mnist/report.json"
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


def of_method(name, **options):
    return {"method_options": {name: options}}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"methods": ("acik",)}, "methods .'acik'. are unknown"),
        ({"methods": ()}, "are unknown; allowed are"),
        ({"draws": 0}, "draws and sqnr_images must be 1 or more"),
        ({"sqnr_images": 0}, "draws and sqnr_images must be 1 or more"),
        ({"bits": ()}, "bits at least one number"),
        ({"spacing": "cubic"}, "spacing is 'cubic'"),
        (of_method("latent_distil", steps=3), "'latent_distil', which is not studied; allowed are aciq, gptq\\."),
        (of_method("linear"), "options of 'linear', which is not studied"),
        (of_method("gptq", stepz=3), "stepz"),
    ],
)
def test_wrong_options_are_refused(options, message):
    StudyConfig(methods=("aciq", "gptq mixed"), **of_method("gptq", batches=1))
    with pytest.raises(ValueError, match=message):
        StudyConfig(**{"methods": ("aciq", "gptq mixed")} | options)


def test_too_few_images_and_features_alone_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(study_drawing, "sample_images", None)
    monkeypatch.setattr(compression_study, "extract_features", None)
    with pytest.raises(ValueError, match="distance of 128 features needs more than 128 of each, and here are 100"):
        run_study(MODEL, REFERENCE, tmp_path, StudyConfig(**QUICK | {"num_samples": 100}), progress=False)
    np.save(tmp_path / "features.npy", torch.randn(50, 4).numpy())
    with pytest.raises(ValueError, match="holds no images"):
        run_study(MODEL, str(tmp_path / "features.npy"), tmp_path / "out", StudyConfig(**QUICK), progress=False)


def test_a_reference_by_path_is_as_good_as_a_bundled_one(tmp_path):
    by_name, by_path = (compression_study._reference(str(each), gz.load_model(MODEL)) for each in (REFERENCE, IMAGES))
    assert torch.equal(by_name[0], by_path[0]) and torch.equal(by_name[1], by_path[1])
    assert by_name[0].shape == (5000, 1, 32, 32) and by_name[1].bincount().tolist() == [500] * 10
    np.save(tmp_path / "images.npy", by_name[0][:3, :, 2:30, 2:30].numpy())
    images, labels = compression_study._reference(str(tmp_path / "images.npy"), gz.load_model(MODEL))
    assert torch.equal(images, by_name[0][:3]) and labels is None


SHORT = {"methods": ("aciq", "auto", "auto mixed"), "bits": (4, 2), "num_samples": 132, "draws": 2}
SHORT |= {"steps": 3, "clip_sample": True, "sqnr_images": 6}


def unet():
    torch.manual_seed(0)
    return tiny_unet(sample_size=8, in_channels=1, out_channels=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ddpm") / "small-ddpm"
    DDPMPipeline(unet(), DDPMScheduler(num_train_timesteps=100, beta_end=0.1)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    result = run_study(folder, REFERENCE, output, StudyConfig(**SHORT), progress=False)
    write_report(result, output)
    return output, result


@pytest.mark.process
def test_figures_conditions_and_report_of_a_diffusion_model(study):
    output, result = study
    rows = {(row["method"], row["bits"]): row for row in result["rows"]}
    assert "sqnr" not in rows.pop(("full", 32)) and len(rows) == 6
    for name in SHORT["methods"]:  # noise predictions are nearer with more bits
        values = [rows[name, bits]["sqnr"] for bits in SHORT["bits"]]
        assert values[0] > values[1] + 5
    assert rows["auto", 4]["sqnr"] > rows["aciq", 4]["sqnr"] and rows["auto", 4]["bytes"] < rows["aciq", 4]["bytes"]
    for bits in SHORT["bits"]:  # what is stored besides codes is no part of the budget: a few bytes a layer
        assert rows["auto mixed", bits]["bytes"] < 1.05 * rows["auto", bits]["bytes"]
    assert all(row["sqnr_std"] > 0 and "realism_per_class" not in row for row in rows.values())

    conditions = result["conditions"]
    expected = {"steps": 4, "spacing": "uniform", "clip_sample": True, "sqnr_images": 6, "num_train_timesteps": 100}
    expected |= {"model": "small-ddpm", "sampler": "DDIM, eta 0"}
    assert {name: conditions[name] for name in expected} == expected  # 3 of 100 are 0, 33, 66, 99

    text = (output / "report.md").read_text()
    assert "DDIM, eta 0, 4 steps (uniform spacing of 100 timesteps, predicted images clipped)" in text
    assert "trajectories of 6 images" in text and "The same noise in every row" in text and "![Real" not in text
    head, _, full, first = [line.split(" | ") for line in text.splitlines() if line.startswith("|")][:4]
    column = head.index("SQNR dB")
    row = result["rows"][1]
    assert (full[column], first[column]) == ("-", f"{row['sqnr']:.1f} ± {row['sqnr_std']:.1f}")
    with Image.open(output / "rate_distortion.png") as image:
        assert image.width > 1000  # two panels


def test_the_ratio_is_that_of_a_comparison():
    original = unet()
    config = StudyConfig(methods=("aciq",), bits=(3,), num_samples=8, sqnr_images=8, steps=3)
    model, _ = Compressor(original, config)("aciq", 3)
    options = {"num_images": 8, "sqnr_images": 8, "steps": 3, "seed": 5, "bootstrap": 0, "memory": False}
    report = gz.compare(original, model, metrics=(), progress=False, **options)
    assert Drawing(original, config).sqnr(model, 5) == pytest.approx(report["sqnr"].candidate.value, abs=1e-4)


def test_images_follow_the_schedule_of_the_pipeline(folder):
    config, seen = StudyConfig(**SHORT | {"num_samples": 5}), []
    images, labels = Drawing(DiffusionPipeline.from_pretrained(folder), config).images(unet(), 7, seen.append)
    options = {"steps": 3, "timesteps": 100, "beta_end": 0.1, "clip_sample": True, "progress": False}
    assert torch.equal(images, sample_diffusion(unet(), 5, seed=7, **options)[0]) and labels is None and seen == [5]
    alone = Drawing(unet(), config)
    assert not torch.equal(alone.images(unet(), 7, seen.append)[0], images)
    assert (alone.name, alone.conditions()["num_train_timesteps"]) == ("UNet2DModel", 1000)


@pytest.mark.process
def test_a_stopped_study_goes_on(study, folder, tmp_path, monkeypatch):
    output, result = study
    shutil.copytree(output / "pieces", tmp_path / "pieces")
    (tmp_path / "pieces" / "auto-4-1.json").unlink()
    sampled, sample = [], study_drawing.sample_diffusion
    counting = lambda *a, **k: sampled.append(k["seed"]) or sample(*a, **k)  # noqa: E731
    monkeypatch.setattr(study_drawing, "sample_diffusion", counting)
    whole = DiffusionPipeline.from_pretrained(folder)  # as good as where it is saved
    again = run_study(whole, REFERENCE, tmp_path, StudyConfig(**SHORT), progress=False)
    assert sampled == [1, 1]  # the images, and the trajectories of the predictions
    for row, before in zip(again["rows"], result["rows"]):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}
    sampled.clear()
    more = StudyConfig(**SHORT | {"methods": ("linear", *SHORT["methods"])})
    assert run_study(folder, REFERENCE, tmp_path, more, progress=False)["rows"][3:] == again["rows"][1:]
    assert len(sampled) == 8
    with pytest.raises(ValueError, match="differs in spacing, steps; choose"):
        changed = StudyConfig(**SHORT | {"steps": 2, "spacing": "quad"})
        run_study(folder, REFERENCE, tmp_path, changed, progress=False)


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (DDIMScheduler(beta_schedule="squaredcos_cap_v2"), "beta_schedule 'squaredcos_cap_v2'; allowed are"),
        (DDPMScheduler(prediction_type="v_prediction"), "prediction_type 'v_prediction'; allowed are"),
        (DDPMScheduler(num_train_timesteps=2), "steps 3; allowed are uniform, quad and 1 to 2|steps 3"),
    ],
)
def test_schedules_that_are_not_sampled_are_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        Drawing(DDPMPipeline(unet(), scheduler), StudyConfig(**SHORT))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="study: steps is 3, but StyleGAN2Generator takes one step; leave it out"):
        Drawing(gz.load_model(MODEL), StudyConfig(steps=3))
    with pytest.raises(ValueError, match="is no GAN generator"):
        Drawing(gz.load_model("stylegan2-fashion-mnist-discriminator"), StudyConfig())


def test_default_methods():
    assert set(OF_GANS) | set(OF_DIFFUSION) == set(VARIANTS) - set(ROTATIONS)
    assert OF_DIFFUSION[:4] == OF_GANS[:4] == ("linear", "monte_carlo", "outlier_splitting", "aciq")
    assert not any("latent_distill" in name for name in OF_DIFFUSION)


def test_published_studies_of_gans_can_go_on():
    """The same conditions, and settings that are still compressed into the same bytes."""
    published = json.loads(PUBLISHED.read_text())
    conditions, rows = published["conditions"], published["rows"]
    drawing = Drawing(MODEL, StudyConfig(method_options=conditions["method_options"]))
    assert drawing.conditions().keys() <= conditions.keys() and drawing.name == conditions["model"]
    compressor = Compressor(drawing.network, drawing.config, progress=False)
    for name in ("linear", "outlier_splitting", "aciq", "mse_clip", "codebook"):
        (row,) = [row for row in rows if (row["method"], row["bits"]) == (name, 4)]
        assert compressor(name, 4)[1]["bytes"] == row["bytes"]
