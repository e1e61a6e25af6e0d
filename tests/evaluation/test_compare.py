# SPDX-License-Identifier: Apache-2.0
"""A compressed model against its original: pairs, noise predictions, distributions, pipelines, refusals."""

import copy
import json
import math

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTPipeline, EulerDiscreteScheduler

import hf_ganzip as gz
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import perturbed, tiny_ugatit, tiny_unet
from ..test_transformers import tiny_pipeline
from ..tiny_diffusion import transformer
from ..tiny_pipelines import vae
from .conftest import DRAWN, QUICK, figures, grey_generator, grey_pipeline, grey_unet, quantized


pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.mark.parametrize("build", [grey_generator, grey_unet])
def test_a_model_with_itself(build, tmp_path):
    model = build()
    options = QUICK if build is grey_generator else DRAWN
    report = gz.compare(model, model, folder=tmp_path, **options)
    values = {name: each.candidate.value for name, each in figures(report).items()}
    assert values["psnr"] == math.inf and values["ssim"] == pytest.approx(1) and values["feature_distance"] == 0
    assert values["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert values["precision"] == values["recall"] == values["lsh_precision"] == values["lsh_recall"] == 1
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["figures"]["pairs"]["psnr"]["candidate"] == {"value": "inf", "low": "inf", "high": "inf"}
    assert ("sqnr" in values) == bool(report.timesteps) == (build is grey_unet)
    if report.timesteps:
        assert values["sqnr"] == math.inf and found["timesteps"][0]["sqnr"] == "inf"
        # 1000 // 3 apart, as evaluate samples
        assert [row["timestep"] for row in report.timesteps] == [999, 666, 333, 0]


def test_more_bits_are_nearer():
    model = gz.load_model("stylegan2-fashion-mnist")
    reports = [gz.compare(model, quantized(model, bits), **QUICK | {"num_images": 32}) for bits in (2, 4, 6)]
    for name in ("psnr", "ssim"):
        values = [report[name].candidate.value for report in reports]
        assert values == sorted(values) and values[0] < values[-1]
    for name in ("feature_distance", "frechet_distance", "bytes_held"):
        values = [report[name].candidate.value for report in reports]
        assert values == sorted(values, reverse=name != "bytes_held") and len(set(values)) == 3


def test_noise_predictions_by_hand():
    """A tenth too large everywhere: 20 dB at every timestep, whatever the candidate's own trajectory does."""
    original = grey_unet()
    candidate = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in candidate.conv_out.parameters():
            parameter *= 1.1
    report = gz.compare(original, candidate, sqnr_images=4, **DRAWN)
    assert report["sqnr"].candidate.value == pytest.approx(20, abs=1e-3) and report.conditions["n_sqnr"] == 4
    assert [row["sqnr"] for row in report.timesteps] == pytest.approx([20] * 4, abs=1e-3)
    assert report["psnr"].candidate.value < math.inf


def test_a_candidate_in_half_precision():
    original = grey_unet()
    report = gz.compare(original, copy.deepcopy(original).to(torch.bfloat16), **DRAWN)
    assert 20 < report["sqnr"].candidate.value < 70
    assert report["bytes_held"].candidate.value * 2 == report["bytes_held"].original.value


def test_packed_and_dequantized_candidates_agree():
    original = grey_unet()
    packed = quantized(original, 4)
    unpacked = copy.deepcopy(packed)
    gz.dequantize_(unpacked)
    assert gz.compare(unpacked, packed, **DRAWN)["sqnr"].candidate.value > 90
    first, second = (gz.compare(original, each, **DRAWN) for each in (packed, unpacked))
    for name in ("psnr", "ssim", "sqnr", "feature_distance"):
        assert first[name].candidate.value == pytest.approx(second[name].candidate.value, rel=1e-3)
    assert first["bytes_held"].candidate.value < second["bytes_held"].candidate.value / 2
    assert {each.packed_compute for each in packed_modules(packed).values()} == {"packed"}
    assert second["bytes_held"].candidate.value == second["bytes_held"].original.value


def test_the_same_seed_repeats_and_batches_do_not_matter():
    original = grey_generator()
    candidate = quantized(original)
    first, second = (gz.compare(original, candidate, **QUICK) for _ in range(2))
    assert figures(first) == figures(second) and first.timesteps == second.timesteps
    other = gz.compare(original, candidate, **QUICK | {"seed": 1})
    assert figures(first)["psnr"] != figures(other)["psnr"]
    parted = gz.compare(original, candidate, **QUICK | {"batch_size": 3})
    assert (parted.images["original"].int() - first.images["original"].int()).abs().max() <= 1
    assert torch.initial_seed() == 0, "the global seed was changed"


@pytest.mark.process
def test_with_real_images_both_sides_and_their_difference_are_given():
    original = gz.load_model("stylegan2-fashion-mnist")
    options = QUICK | {"metrics": ["fid", "prc"], "num_images": 40, "reference": "fashion-mnist-test-5000"}
    report = gz.compare(original, quantized(original, 2, method="aciq"), **options)
    distance = report["frechet_distance"]
    assert distance.candidate.value > distance.original.value > 0
    assert distance.difference.value == distance.candidate.value - distance.original.value
    assert distance.difference.low > 0, "2 bits by one scale per tensor destroy this generator"
    assert report.conditions["n_reference"] == 5000 and report.conditions["reference"] == "fashion-mnist-test-5000"
    assert set(figures(report)) == {"psnr", "ssim", "feature_distance", "frechet_distance", "precision", "recall"}


def test_metrics_and_extractors_of_ones_own():
    def gap(*, real, generated):
        return {"gap": float((generated.mean() - real.mean()).abs()), "n": len(real)}

    def pixels(images):
        return images.flatten(1).float()

    def mean(first, second):
        return (first - second).abs().mean(dim=(1, 2, 3))

    own = {"metrics": [gap, "density_coverage"], "extractor": pixels, "perceptual": mean}
    original = grey_generator()
    report = gz.compare(original, quantized(original, 3), **own, **QUICK)
    assert report["gap"].candidate.low >= 0 and "n" not in figures(report)
    assert report.conditions["extractor"] == "pixels" and {"density", "coverage"} < set(figures(report))
    assert report["lpips"].candidate.value > 0


def test_what_cannot_be_computed_is_told_and_leaves_the_rest(monkeypatch):
    small = perturbed(tiny_unet(in_channels=1, out_channels=1))  # 8 pixels: too small for SSIM

    def broken(images):
        raise RuntimeError("no weights\nhere")

    report = gz.compare(small, quantized(small), extractor=broken, **DRAWN)
    assert set(report.failures) == {"ssim", "features"} and report.failures["features"] == "no weights here"
    assert {"psnr", "sqnr"} == set(figures(report)) and "no weights here" in str(report)


class TestPipelines:
    def test_without_text(self):
        original = grey_pipeline()
        before, unet = original.unet, quantized(original.unet)
        original.set_progress_bar_config(desc="mine")
        report = gz.compare(original, grey_pipeline(unet), **DRAWN)
        assert report.conditions["sampler"] == "DDIMScheduler" and report.conditions["steps"] == 3
        assert report.conditions["scheduler_config"]["beta_schedule"] == "linear"
        assert {row["component"] for row in report.timesteps} == {"unet"} and len(report.timesteps) == 3
        drawn = {"batch_size": 1, "num_inference_steps": 3, "output_type": "np"}
        images = original(generator=[torch.Generator().manual_seed(0)], **drawn).images
        expected = torch.from_numpy(images).mul(255).round().to(torch.uint8)[0, ..., 0]
        assert torch.equal(report.images["original"][0, 0], expected)
        alone = gz.compare(original, unet, **DRAWN)  # takes the place of the original's
        assert alone["psnr"] == report["psnr"]
        assert original.unet is before and original._progress_bar_config == {"desc": "mine"}

    def test_with_text_and_guidance(self, tmp_path):
        original, candidate = tiny_pipeline(tmp_path / "first"), tiny_pipeline(tmp_path / "second")
        candidate.unet.load_state_dict(original.unet.state_dict())
        gz.quantize_(candidate, bits=4)
        drawn = {"steps": 2, "batch_size": 2, "bootstrap": 20, "progress": False, "options": {"guidance_scale": 3.0}}
        drawn["extractor"] = lambda images: images.flatten(1).float()[:, :16]
        prompts = ["a b", "b", "a a b"]
        report = gz.compare(original, candidate, prompts=prompts, **drawn)
        assert report.conditions["n_images"] == 3 and report.conditions["prompts"] == prompts
        assert 5 < report["sqnr"].candidate.value < 60
        held, by_denoiser = report["bytes_held"], report["bytes_held_by_denoiser"]
        assert held.candidate.value - by_denoiser.candidate.value == held.original.value - by_denoiser.original.value
        alone = gz.compare(original, candidate, prompts=prompts, **drawn | {"batch_size": 1})
        assert (alone.images["candidate"].int() - report.images["candidate"].int()).abs().max() <= 2
        with pytest.raises(ValueError, match="StableDiffusionPipeline draws from text: set prompts"):
            gz.compare(original, candidate, **drawn)
        with pytest.raises(ValueError, match="no option guidance; allowed are .*guidance_scale"):
            gz.compare(original, candidate, prompts=prompts, **drawn | {"options": {"guidance": 3}})

    def test_with_classes(self):
        network = perturbed(transformer(out_channels=8, num_embeds_ada_norm=10))
        original, candidate = (DiTPipeline(side, vae(), DDIMScheduler()) for side in (network, quantized(network)))
        report = gz.compare(original, candidate, options={"guidance_scale": 1}, **DRAWN | {"num_images": 4})
        assert {row["component"] for row in report.timesteps} == {"transformer"} and report["psnr"].candidate.value > 5


def other_scheduler():
    pipeline = grey_pipeline()
    pipeline.scheduler = EulerDiscreteScheduler()
    return pipeline


def other_in_all():
    return DDIMPipeline(perturbed(tiny_unet()), DDIMScheduler(beta_start=0.01, prediction_type="sample"))


OF_UNET = "sample_size of unet 16 against 8; in_channels of unet 1 against 3"
OF_SCHEDULER = "beta_start of the scheduler 0.0001 against 0.01; prediction_type"


class TestRefusals:
    @pytest.mark.parametrize(
        "original, candidate, said",
        [
            (grey_unet, grey_generator, "UNet2DModel against a StyleGAN2Generator"),
            (grey_unet, grey_pipeline, "original is a UNet2DModel, candidate a DDIMPipeline"),
            (grey_generator, lambda: grey_generator(z_dim=4), "z_dim of the network 8 against 4"),
            (grey_unet, lambda: torch.nn.Linear(2, 2), "candidate is a Linear; allowed are"),
            (tiny_ugatit, tiny_ugatit, "no GAN generator"),
            (grey_pipeline, other_scheduler, "scheduler DDIMScheduler against EulerDiscreteScheduler"),
            (grey_pipeline, other_in_all, f"{OF_UNET}.*{OF_SCHEDULER}"),  # all in one error
        ],
    )
    def test_what_cannot_be_compared(self, original, candidate, said):
        with pytest.raises((ValueError, TypeError), match=said):
            gz.compare(original(), candidate(), **QUICK)

    @pytest.mark.parametrize(
        "build, role, value, said",
        [
            (grey_unet, "original", torch.nan, "UNet2DModel gave NaN or infinity at timestep 999 for 4 of 4"),
            (grey_unet, "candidate", torch.nan, "UNet2DModel gave NaN or infinity at timestep 999 for 4 of 4"),
            (grey_generator, "candidate", torch.inf, "StyleGAN2Generator gave NaN"),
        ],
    )
    def test_nan_is_named(self, build, role, value, said):
        sides = {"original": build(), "candidate": build()}
        with torch.no_grad():
            list(sides[role].parameters())[-1].fill_(value)
        with pytest.raises(ValueError, match=f"{role}: {said}"):
            gz.compare(**sides, **(DRAWN if build is grey_unet else QUICK))

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"prompts": ["a"]}, "prompts are for text-to-image pipelines"),
            ({"steps": 5}, "steps is 5; .* takes one step"),
            ({"options": {"clip_sample": True}}, "has no option clip_sample; allowed are truncation_psi"),
            ({"num_images": 1}, "num_images is 1"),
            ({"bootstrap": -1}, "bootstrap is -1"),
            ({"metrics": "inception_score"}, "no metric of features"),
            ({"metrics": "frechet"}, "Unknown metric 'frechet'"),
            ({"extractor": "vgg"}, "Unknown extractor 'vgg'"),
            ({"reference": "stylegan2-fashion-mnist"}, "reference stylegan2-fashion-mnist is a model"),
        ],
    )
    def test_options(self, options, said):
        with pytest.raises(ValueError, match=said):
            gz.compare(grey_generator(), grey_generator(), **QUICK | options)
