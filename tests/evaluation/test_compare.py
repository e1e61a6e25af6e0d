# SPDX-License-Identifier: Apache-2.0
import copy
import json
import math
import re
import sys

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTPipeline, EulerDiscreteScheduler

import hf_ganzip as gz
from hf_ganzip.evaluation.comparing import compare as module
from hf_ganzip.evaluation.comparing.measured_pairs import distribution, psnr, squared_errors
from hf_ganzip.evaluation.comparing.sides import open_side, weights_of
from hf_ganzip.evaluation.evaluate import measure
from hf_ganzip.evaluation.held_bytes import held_bytes
from hf_ganzip.metrics import frechet_distance, kernel_distance
from hf_ganzip.metrics.frechet import frechet_to
from hf_ganzip.metrics.resampling import halves, interval_by_halves, interval_of_mean, resamples
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import perturbed, tiny_generator, tiny_ugatit, tiny_unet
from ..test_reports import Checker
from ..test_transformers import tiny_pipeline


pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
QUICK = {"bootstrap": 40, "progress": False, "batch_size": 4, "num_images": 8}
DRAWN = QUICK | {"steps": 3}


def grey_unet(**changes):
    return perturbed(tiny_unet(sample_size=16, in_channels=1, out_channels=1, **changes))


def grey_pipeline(unet=None):
    return DDIMPipeline(grey_unet() if unet is None else unet, DDIMScheduler())


def grey_generator(**changes):
    return perturbed(tiny_generator(image_channels=1, **changes))


def quantized(model, bits=4, **options):
    model = copy.deepcopy(model)
    gz.quantize_(model, gz.QuantizeConfig(bits=bits, **options))
    return model


def figures(report):
    return {each.name: each for each in report.figures if each.group != "cost"}


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


@pytest.mark.process
def test_noise_predictions_fall_with_bits_in_a_half_precision_candidate_too():
    original = grey_unet()
    values = [gz.compare(original, quantized(original, bits), **DRAWN)["sqnr"].candidate.value for bits in (3, 5, 8)]
    assert values == sorted(values) and values[-1] > values[0] + 10
    half = copy.deepcopy(original).to(torch.bfloat16)
    report = gz.compare(original, half, **DRAWN)
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
def test_intervals_hold_the_figure_and_shrink_with_more_images():
    original = gz.load_model("stylegan2-fashion-mnist")
    candidate = quantized(original, 3)
    few, many = (
        gz.compare(original, candidate, **QUICK | {"num_images": count, "batch_size": 40, "bootstrap": 60})
        for count in (20, 120)
    )
    for name in figures(many):
        for report in (few, many):
            found = report[name].candidate
            assert found.low <= found.value <= found.high, name
    for name in ("psnr", "ssim", "feature_distance", "frechet_distance", "lsh_precision", "lsh_knn_precision"):
        widths = [report[name].candidate.high - report[name].candidate.low for report in (few, many)]
        assert 0 < widths[1] < widths[0], name
    bare = gz.compare(original, candidate, **QUICK | {"bootstrap": 0})
    assert all(each.candidate.low is None for each in bare.figures)


class TestIntervals:
    def test_of_a_mean_is_what_the_normal_distribution_says(self):
        values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = interval_of_mean(values, resamples(400, 2000))
        expected = 2 * 1.96 * float(values.std()) / 20
        assert found.high - found.low == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize("metric", ["knn_precision_recall", "frechet_distance"])
    def test_of_distributions_have_the_spread_of_repeated_draws(self, metric):
        """Recall too, of which most uncertainty lies in the generated samples."""
        generator = torch.Generator().manual_seed(0)
        real = torch.randn(400, 8, generator=generator)
        sets = [0.8 * torch.randn(80, 8, generator=generator) + 0.3 for _ in range(40)]
        options = {"seed": 0, "progress": False}
        repeated = [distribution(metric, real, each, each, drawn=halves(80, 0), **options) for each in sets]
        measured = [distribution(metric, real, each, each, drawn=halves(80, 60), **options) for each in sets[:4]]
        for name in repeated[0]:
            spread = torch.tensor([each[name]["candidate"].value for each in repeated]).std()
            found = [each[name]["candidate"] for each in measured]
            estimate = sum(each.high - each.low for each in found) / len(found) / (2 * 1.96)
            assert 0.6 < estimate / spread < 1.6, name

    @pytest.mark.parametrize(
        "metric", ["knn_precision_recall", "frechet_distance", "lsh_precision_recall", "density_coverage"]
    )
    def test_values_are_those_of_evaluate(self, metric):
        generator = torch.Generator().manual_seed(0)
        real, generated = torch.randn(300, 8, generator=generator), torch.randn(200, 8, generator=generator)
        (expected,) = measure(real=real, generated=generated, metrics=[metric], seed=3).values()
        found = distribution(metric, None, real, generated, drawn=halves(200, 0), seed=3, progress=False)
        values = {name: each["candidate"].value for name, each in found.items()}
        assert values and values == pytest.approx({name: expected[name] for name in values}, rel=1e-6)

    def test_kernel_distance_takes_all_images(self):
        real, generated = torch.randn(40, 8), torch.randn(20, 8)
        expected = kernel_distance(real=real, generated=generated, subset_size=None)["kernel_distance"]
        found = distribution("kernel_distance", None, real, generated, drawn=halves(20, 20), seed=0, progress=False)
        assert found["kernel_distance"]["candidate"].value == pytest.approx(expected)
        assert found["kernel_distance"]["candidate"].low < expected

    def test_differences_are_paired(self):
        """Both sides on the same seeds: what they share cancels."""
        generator = torch.Generator().manual_seed(0)
        real, original = (torch.randn(count, 8, generator=generator) for count in (300, 100))
        candidate = original + 0.05 * torch.randn(100, 8, generator=generator)
        options = {"drawn": halves(100, 60), "seed": 0, "progress": False}
        found = distribution("frechet_distance", real, original, candidate, **options)["frechet_distance"]
        assert found["difference"].value == found["candidate"].value - found["original"].value
        assert found["difference"].low < found["difference"].value < found["difference"].high
        width = {side: each.high - each.low for side, each in found.items()}
        assert width["difference"] < width["candidate"] / 2

    def test_end_at_the_bounds(self):
        found = interval_by_halves(0.95, torch.linspace(0.5, 0.9, 41), 0.0, 1.0)
        assert found.high == 1.0 and found.low == pytest.approx(0.95 - 0.19, abs=1e-4)

    def test_halves_have_no_sample_twice(self):
        found = halves(9, 50, seed=3)
        assert found.shape == (50, 4) and all(len(set(row)) == 4 for row in found.tolist())
        assert not torch.equal(found, halves(9, 50, seed=4))

    @pytest.mark.parametrize("count", [5, 30])
    def test_distances_to_one_set_are_those_of_both(self, count):
        """With fewer and with more samples than dimensions."""
        real, generated = torch.randn(50, 12, dtype=torch.float64), torch.randn(count, 12, dtype=torch.float64)
        expected = frechet_distance(real=real, generated=generated, allow_singular=True)["frechet_distance"]
        assert frechet_to(real)(generated) == pytest.approx(expected, rel=1e-6)

    def test_psnr_by_hand(self):
        black, grey = (torch.full((2, 1, 4, 4), value, dtype=torch.uint8) for value in (0, 51))
        found = psnr(squared_errors(black, grey), resamples(2, 10))
        assert found.value == pytest.approx(20 * math.log10(5)) and found.low == found.high == found.value


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
        candidate = grey_pipeline(quantized(original.unet))
        report = gz.compare(original, candidate, **DRAWN)
        assert report.conditions["sampler"] == "DDIMScheduler" and report.conditions["steps"] == 3
        assert report.conditions["scheduler_config"]["beta_schedule"] == "linear"
        assert {row["component"] for row in report.timesteps} == {"unet"} and len(report.timesteps) == 3
        drawn = {"batch_size": 1, "num_inference_steps": 3, "output_type": "np"}
        images = original(generator=[torch.Generator().manual_seed(0)], **drawn).images
        expected = torch.from_numpy(images).mul(255).round().to(torch.uint8)[0, ..., 0]
        assert torch.equal(report.images["original"][0, 0], expected)

    def test_a_denoiser_alone_takes_the_place_of_the_originals(self):
        original = grey_pipeline()
        before = original.unet
        unet = quantized(before)
        report = gz.compare(original, unet, **DRAWN)
        assert report["psnr"] == gz.compare(original, grey_pipeline(unet), **DRAWN)["psnr"]
        assert original.unet is before

    def test_with_text_and_guidance(self, tmp_path):
        original, candidate = tiny_pipeline(tmp_path / "first"), tiny_pipeline(tmp_path / "second")
        candidate.unet.load_state_dict(original.unet.state_dict())
        gz.quantize_(candidate, gz.QuantizeConfig(bits=4))
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
        from diffusers import AutoencoderKL, DiTTransformer2DModel

        sizes = {
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
        }
        sizes |= {"sample_size": 8, "num_embeds_ada_norm": 10, "norm_num_groups": 4}
        transformer = perturbed(DiTTransformer2DModel(**sizes))
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        vae = AutoencoderKL(**blocks, block_out_channels=[4, 4], norm_num_groups=2)
        networks = transformer, quantized(transformer)
        original, candidate = (DiTPipeline(network, vae, DDIMScheduler()) for network in networks)
        report = gz.compare(original, candidate, options={"guidance_scale": 1}, **DRAWN | {"num_images": 4})
        assert {row["component"] for row in report.timesteps} == {"transformer"} and report["psnr"].candidate.value > 5

    def test_progress_bars_of_a_pipeline_are_as_before(self):
        pipeline = grey_pipeline()
        pipeline.set_progress_bar_config(desc="mine")
        gz.compare(pipeline, quantized(pipeline.unet), **DRAWN)
        assert pipeline._progress_bar_config == {"desc": "mine"}


class TestRefusals:
    def test_all_differences_in_one_error(self):
        first = grey_pipeline()
        second = DDIMPipeline(perturbed(tiny_unet()), DDIMScheduler(beta_start=0.01, prediction_type="sample"))
        of_unet = "sample_size of unet 16 against 8; in_channels of unet 1 against 3"
        of_scheduler = "beta_start of the scheduler 0.0001 against 0.01; prediction_type"
        with pytest.raises(ValueError, match=f"{of_unet}.*{of_scheduler}"):
            gz.compare(first, second, **DRAWN)

    @pytest.mark.parametrize(
        "original, candidate, said",
        [
            (grey_unet, grey_generator, "UNet2DModel against a StyleGAN2Generator"),
            (grey_unet, grey_pipeline, "original is a UNet2DModel, candidate a DDIMPipeline"),
            (grey_generator, lambda: grey_generator(z_dim=4), "z_dim of the network 8 against 4"),
            (grey_unet, lambda: torch.nn.Linear(2, 2), "candidate is a Linear; allowed are"),
            (tiny_ugatit, tiny_ugatit, "no GAN generator"),
        ],
    )
    def test_what_cannot_be_compared(self, original, candidate, said):
        with pytest.raises((ValueError, TypeError), match=said):
            gz.compare(original(), candidate(), **QUICK)

    def test_schedulers_of_two_kinds(self):
        first, second = grey_pipeline(), grey_pipeline()
        second.scheduler = EulerDiscreteScheduler()
        with pytest.raises(ValueError, match="scheduler DDIMScheduler against EulerDiscreteScheduler"):
            gz.compare(first, second, **DRAWN)

    @pytest.mark.parametrize("role", ["original", "candidate"])
    def test_nan_is_named(self, role):
        sides = {"original": grey_unet(), "candidate": grey_unet()}
        with torch.no_grad():
            sides[role].conv_out.bias.fill_(torch.nan)
        with pytest.raises(ValueError, match=f"{role}: UNet2DModel gave NaN or infinity at timestep 999 for 4 of 4"):
            gz.compare(**sides, **DRAWN)
        generator = grey_generator()
        broken = copy.deepcopy(generator)
        with torch.no_grad():
            next(broken.parameters()).fill_(torch.inf)
        with pytest.raises(ValueError, match="candidate: StyleGAN2Generator gave NaN"):
            gz.compare(generator, broken, **QUICK)

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


class TestHeldBytes:
    def test_packed_buffers_and_what_is_kept_unpacked(self):
        model = grey_unet()
        full = held_bytes(model)
        assert full == sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
        packed = quantized(model)
        assert held_bytes(packed) == sum(each.nbytes for each in (*packed.parameters(), *packed.buffers())) < full / 2
        gz.set_compute_(packed, "dequantized")
        gz.compare(model, packed, **DRAWN)
        assert held_bytes(packed) > full

    def test_state_elsewhere_counts_once(self):
        layer = torch.nn.Linear(4, 4, bias=False)
        layer.weight.quant_state = type("State", (), {})()
        layer.weight.quant_state.absmax = torch.zeros(3)
        layer.scale = [torch.zeros(2), layer.weight]
        layer.tied = layer.weight
        assert held_bytes(layer) == 64 + 12 + 8 and held_bytes(layer, layer) == 84

    def test_meta_and_expanded_tensors_hold_what_they_hold(self):
        layer = torch.nn.Linear(4, 4, bias=False)
        layer.register_buffer("wide", torch.zeros(1).expand(1000))
        layer.register_buffer("nothing", torch.empty(1000, device="meta"))
        assert held_bytes(layer) == 64 + 4


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    model = grey_unet()
    return gz.compare(model, quantized(model), folder=folder, **DRAWN), folder


class TestReport:
    def test_files(self, written):
        report, folder = written
        files = {"report.md", "report.html", "report.json", "samples.png", "farthest.png", "sqnr.png"}
        assert {file.name for file in folder.iterdir()} == files
        text = (folder / "report.md").read_text()
        for name in re.findall(r"\]\(([^)]+)\)", text):
            assert (folder / name).is_file()
        headings = ["Pairs", "Noise predictions", "Distributions", "Cost", "Timesteps", "Conditions"]
        assert re.findall("^## (.*)$", text, re.MULTILINE) == headings and "| psnr | " in text
        assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report.to_dict()))

    def test_one_html_file_holds_everything(self, written):
        page = (written[1] / "report.html").read_text()
        assert set(re.findall(r'src="([^",]+)', page)) == {"data:image/png;base64"} and page.count("<img") == 3
        assert "href=" not in page and "<script" not in page
        text = re.sub(r"<(!DOCTYPE|meta|img)[^>]*>", "", page)
        assert not Checker(text).open

    def test_conditions_say_what_was_drawn(self, written):
        found = written[0].conditions
        assert found["compression"] == {"candidate": {"network": found["compression"]["candidate"]["network"]}}
        said = found["compression"]["candidate"]["network"]
        assert (said["quant_method"], said["bits"], said["method"]) == ("hf_ganzip", 4, "auto")
        assert found["n_images"] == 8 and found["seed"] == 0 and found["sampler"].startswith("DDIM, eta 0")
        assert "objects in memory; give folders" in found["peak_memory"] and found["timed_batches"] == 1
        assert found["candidate"] == "UNet2DModel (hf_ganzip, in memory)"

    def test_figures_by_name(self, written):
        assert written[0]["psnr"].unit == "dB"
        with pytest.raises(KeyError, match="the report has psnr, "):
            written[0]["sharpness"]

    def test_weights_as_far_as_known(self):
        trained = [{"name": "train", "options": {"ema_images": 500.0}}]
        for config, said in (
            ({}, "unknown"),
            ({"_ganzip_source": {"network": "G_ema"}}, "average (network G_ema"),
            ({"_ganzip_source": {"network": "G"}}, "raw"),
            ({"_ganzip_record": trained}, "average (recorded by its training)"),
        ):
            model = tiny_generator()
            model.register_to_config(**config)
            assert weights_of(open_side("candidate", model)).startswith(said)


def test_folders_tell_their_bytes(tmp_path):
    model = grey_generator()
    model.save_pretrained(tmp_path / "full")
    quantized(model).save_pretrained(tmp_path / "small")
    report = gz.compare(tmp_path / "full", str(tmp_path / "small"), memory=False, **QUICK)
    size = (tmp_path / "full" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert report["bytes_on_disk"].candidate.value < report["bytes_on_disk"].original.value == size
    assert report["psnr"] == gz.compare(model, quantized(model), **QUICK)["psnr"]
    assert "memory is off" in report.conditions["peak_memory"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        gz.compare(tmp_path / "full", tmp_path / "nowhere", **QUICK)


@pytest.mark.process
def test_peak_memory_of_folders(tmp_path):
    pipeline = grey_pipeline()
    pipeline.save_pretrained(tmp_path / "full")
    grey_pipeline(quantized(pipeline.unet)).save_pretrained(tmp_path / "small")
    report = gz.compare(tmp_path / "full", tmp_path / "small", **DRAWN)
    for side in (report["peak_bytes"].candidate, report["peak_bytes"].original):
        assert 10_000 < side.value < 500e6
    assert report.conditions["peak_memory"] == "of a fresh process that opens the folder and draws one image"


def test_memory_is_measured_in_the_dtype_of_the_comparison(tmp_path, monkeypatch):
    grey_generator().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(module, "printed_by", lambda *arguments: asked.append(arguments[4]) or 1)
    for dtype in (None, torch.bfloat16):
        gz.compare(tmp_path, tmp_path, dtype=dtype, **QUICK)
    assert asked == ["None", "None", "bfloat16", "bfloat16"]


def test_a_failing_process_leaves_the_rest(tmp_path, monkeypatch):
    grey_generator().save_pretrained(tmp_path / "full")
    monkeypatch.setattr(sys.modules["hf_ganzip.evaluation.cost"].sys, "executable", "/bin/false")
    report = gz.compare(tmp_path / "full", tmp_path / "full", **QUICK)
    assert "the process that measures the memory failed" in report.failures["peak_bytes"]
    assert module.compare is gz.compare


def test_the_command(call, tmp_path):
    model = grey_generator()
    model.save_pretrained(tmp_path / "full")
    quantized(model).save_pretrained(tmp_path / "small")
    command = ["compare", tmp_path / "full", tmp_path / "small", "--num-images", 8, "--batch-size", 4]
    command += ["--bootstrap", 20, "--no-memory", "-q"]
    code, out, err = call(*command, "--out", tmp_path / "report", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "report" / "report.json").read_text())
    code, _, err = call(*command, "--out", tmp_path / "report", "--steps", 3)
    assert code == 1 and "--steps is 3" in err
    (tmp_path / "prompts.txt").write_text("\n \n")
    code, _, err = call(*command, "--prompts-file", tmp_path / "prompts.txt")
    assert code == 1 and "has no prompts; write one a line" in err


@pytest.mark.process
def test_the_command_on_a_text_pipeline(call, tmp_path):
    pipeline = tiny_pipeline(tmp_path / "tokenizer")
    pipeline.save_pretrained(tmp_path / "full")
    assert call("compress", tmp_path / "full", tmp_path / "small", "--bits", 4)[0] == 0
    (tmp_path / "prompts.txt").write_text("a b\n\nb a\n")
    flags = ["--prompts-file", tmp_path / "prompts.txt", "--steps", 2, "--num-images", 4]
    flags += ["--option", "guidance_scale=2", "--bootstrap", 0]
    code, out, err = call("compare", tmp_path / "full", tmp_path / "small", "--out", tmp_path / "report", *flags)
    assert code == 0, err
    assert "sqnr" in out and "peak_bytes" in out and out.splitlines()[-1] == str(tmp_path / "report" / "report.html")
    assert "0: a b; 1: b a; 2: a b" in (tmp_path / "report" / "report.md").read_text()


class TestOthersCandidates:
    """Whoever compressed it: as the libraries give it, in a pipeline, saved and opened again."""

    def check(self, unet, tmp_path, smaller):
        original = grey_pipeline(gz.load_model("ddpm-fashion-mnist"))
        candidate = grey_pipeline(unet)
        drawn = DRAWN | {"num_images": 4, "memory": False}
        report = gz.compare(original, candidate, **drawn)
        assert report["sqnr"].candidate.value > 15 and report["psnr"].candidate.value > 15
        assert report["bytes_held"].original.value / report["bytes_held"].candidate.value > smaller
        candidate.save_pretrained(tmp_path / "small")
        again = gz.compare(original, tmp_path / "small", **drawn)
        assert again["psnr"].candidate.value == pytest.approx(report["psnr"].candidate.value, rel=1e-3)
        assert again["bytes_held"].candidate == report["bytes_held"].candidate
        return report.conditions

    @pytest.mark.filterwarnings("ignore")
    def test_sdnq(self, tmp_path):
        sdnq = pytest.importorskip("sdnq", reason="sdnq is not installed")
        found = self.check(self.load(sdnq.SDNQConfig(weights_dtype="uint4", quant_conv=True)), tmp_path, 2.5)
        assert found["compression"]["candidate"]["unet"]["weights_dtype"] == "uint4" and "sdnq" in found["versions"]

    @pytest.mark.filterwarnings("ignore")
    def test_torchao(self, tmp_path):
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        from diffusers import TorchAoConfig

        found = self.check(self.load(TorchAoConfig(quantization.Int8WeightOnlyConfig())), tmp_path, 1.1)
        assert "Int8WeightOnlyConfig" in str(found["compression"]) and "torchao" in found["versions"]

    @pytest.mark.filterwarnings("ignore")
    def test_bitsandbytes(self):
        """Layers in memory: diffusers loads them on GPUs only."""
        nf4 = pytest.importorskip("bitsandbytes.nn", reason="bitsandbytes is not installed")
        original = gz.load_model("ddpm-fashion-mnist")
        candidate = copy.deepcopy(original)
        for name, layer in original.named_modules():
            if isinstance(layer, torch.nn.Linear) and layer.in_features % 64 == 0:
                packed = nf4.Linear4bit(layer.in_features, layer.out_features, compute_dtype=torch.float32)
                packed.weight = nf4.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
                packed.bias = copy.deepcopy(layer.bias)
                candidate.set_submodule(name, packed.to("cpu"))
        before = sum(weight.nbytes for weight in original.parameters())
        report = gz.compare(original, candidate, **DRAWN | {"num_images": 4, "memory": False})
        assert 20 < report["sqnr"].candidate.value < 80 and report["psnr"].candidate.value > 15
        assert report["bytes_held"].candidate.value < before

    def load(self, config):
        from diffusers import UNet2DModel

        from hf_ganzip.assets import asset_path

        options = {"quantization_config": config, "torch_dtype": torch.float32}
        return UNet2DModel.from_pretrained(asset_path("ddpm-fashion-mnist"), **options)
