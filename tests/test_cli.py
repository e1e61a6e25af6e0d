# SPDX-License-Identifier: Apache-2.0
"""The command as people run it, and what it writes and prints."""

import json
import re
from functools import partialmethod

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
from PIL import Image

import hf_ganzip as gz
from hf_ganzip.core.shipped import recipes

from .conftest import run, tiny_ugatit, tiny_unet
from .docs.pages import ROOT
from .tiny_pipelines import build


REAL = "fashion-mnist-test-5000"
PICKLE = str(ROOT / "tests" / "golden" / "pickles" / "stylegan2_small_skip.pkl")


def size(path):
    with Image.open(path) as image:
        return image.size


def test_compress_then_info(done, folder, tmp_path):
    out = done("compress", folder, tmp_path / "small", "--bits", "3", "--skip", "mapping.*")
    assert "bits per weight" in out and "skip pattern 'mapping.*'" in out
    model = gz.load_model(tmp_path / "small")
    assert model.config.quantization_config.quantize_config.bits == 3
    out = done("info", tmp_path / "small")
    assert all(each in out for each in ("StyleGAN2Generator", "synthesis.b8.conv0", "step quantize of model"))
    description = json.loads(done("info", tmp_path / "small", "--json"))
    layer = next(layer for layer in description["layers"] if layer["name"] == "synthesis.b8.conv0")
    levels_and_scales = 2 * (2**3 + 16)
    assert (layer["bits"], layer["bytes"]) == (3, 16 * 16 * 9 * 3 // 8 + levels_and_scales)


def test_compress_json_of_a_diffusion_model(done, tmp_path):
    model = tiny_unet()
    model.save_pretrained(tmp_path / "unet")
    arguments = ("--method", "linear", "--bits", "8", "--granularity", "channel", "--last-block", "--json")
    report = json.loads(done("compress", tmp_path / "unet", tmp_path / "small", *arguments))
    assert report["bytes_after"] < report["bytes_before"] / 3
    assert (run(gz.load_model(tmp_path / "small")) - run(model)).abs().max() < 0.1


def test_compress_with_activations(done, folder, tmp_path):
    options = ("--bits", "8", "--activations", "int8", "--activation-range", "minmax", "--bias-correction")
    done("compress", folder, tmp_path / "small", *options)
    config = gz.load_model(tmp_path / "small").config.quantization_config.to_dict()
    assert (config["activations"], config["activation_range"], config["bias_correction"]) == ("int8", "minmax", True)


def test_sample_grid_and_folder(done, folder, tmp_path):
    done("sample", folder, tmp_path / "grid.png", "--num-samples", 7)
    assert size(tmp_path / "grid.png")[0] > 7 * 16
    out = done("sample", folder, tmp_path / "grid.png", "--num-samples", 2, "--json")
    assert json.loads(out) == {"output": str(tmp_path / "grid.png"), "num_samples": 2, "seed": 0}
    done("sample", folder, tmp_path / "images", "--num-samples", 3, "--class-label", 2, "--seed", 5)
    files = sorted((tmp_path / "images").glob("*.png"))
    assert len(files) == 3 and size(files[0]) == (16, 16)
    for name in ("grid.JPG", "grid.webp", "again.webp"):
        done("sample", folder, tmp_path / name, "--num-samples", 2)
        assert size(tmp_path / name)[0] > 32
    assert (tmp_path / "grid.webp").read_bytes() == (tmp_path / "again.webp").read_bytes()
    assert torch.initial_seed() == 0, "the global seed was changed"
    done("sample", folder, tmp_path / "run-0.5", "--num-samples", 2)


def test_text_to_image_pipelines_sample_prompts(call, done, folder, tmp_path):
    build("stable diffusion").save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("b\n\n")
    flags = ("--prompt", "a", "--prompts-file", tmp_path / "prompts.txt", "--steps", 2, "--guidance-scale", 3)

    def pictures(name, *more):
        out = done("sample", tmp_path / "pipe", tmp_path / name, *flags, "--json", *more)
        files = sorted((tmp_path / name).glob("*.png"))
        return [np.asarray(Image.open(file)) for file in files], json.loads(out)

    two, told = pictures("two")
    assert told["num_samples"] == 2 and told["prompts"] == ["a", "b"] and two[0].shape == (16, 16, 3)
    four, _ = pictures("four", "--num-samples", 4, "--batch-size", 3)
    assert len(four) == 4 and all(abs(a.astype(int) - b).max() <= 1 for a, b in zip(two, four))
    assert (four[0] != four[2]).any()
    assert (pictures("other", "--seed", 1)[0][0] != two[0]).any()
    done("sample", tmp_path / "pipe", tmp_path / "grid.png", *flags)
    assert (tmp_path / "grid.png").is_file()
    for model, more, message in (
        ("pipe", (), "draws what it is told: set --prompt or --prompts-file"),
        ("pipe", ("--prompt", "a", "--class-label", 1), "which takes prompts; leave out --class-label"),
        (folder, ("--prompt", "a"), "is no text-to-image pipeline; leave out --prompt"),
        (folder, ("--guidance-scale", 2), "leave out --guidance-scale"),
        (folder, ("--prompts-file", tmp_path / "none.txt"), "none.txt"),
    ):
        code, _, err = call("sample", tmp_path / model, tmp_path / "x.png", *more)
        assert code == 1 and message in err and len(err.splitlines()) == 1


def test_pipelines_are_taken_like_their_network(done, tmp_path):
    DDPMPipeline(tiny_unet(in_channels=1, out_channels=1), DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    out = done("info", tmp_path / "pipe")
    assert all(each in out for each in ("DDPMPipeline in", "unet: UNet2DModel in", "scheduler: DDPMScheduler"))
    assert json.loads(done("info", tmp_path / "pipe", "--json"))["parts"]["unet"]["tensors"] > 10
    done("sample", tmp_path / "pipe", tmp_path / "grid.png", "--num-samples", 2, "--steps", 2)
    done("compress", tmp_path / "pipe", tmp_path / "small")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "small")) is DDPMPipeline
    out = done("compress", tmp_path / "pipe", tmp_path / "alone", "--subfolder", "unet", "--json")
    assert "layers" in json.loads(out) and (tmp_path / "alone" / "config.json").is_file()
    out = done("cost", tmp_path / "small", "--base", tmp_path / "pipe", "--repeats", 1, "--no-memory")
    assert "smaller on disk" in out and "macs" in out
    flags = ("--num-samples", 5, "--steps", 3, "--clip-sample", "--metric", "knn_precision_recall", "--json")
    np.save(tmp_path / "real.npy", np.zeros((5, 1, 8, 8), np.uint8))
    report = json.loads(done("evaluate", tmp_path / "real.npy", tmp_path / "pipe", *flags))
    assert report["metrics"].keys() == {"knn_precision_recall"}
    conditions = report["conditions"]
    assert (conditions["n_real"], conditions["n_generated"], len(conditions["extractor_digest"])) == (5, 5, 64)
    assert (conditions["steps"], conditions["clip_sample"]) == (4, True)


def test_evaluate_compares_feature_files_with_options_of_metrics(call, done, tmp_path):
    for seed, (name, shape) in enumerate({"real": (50, 4), "generated": (40, 4), "few": (5, 8)}.items()):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).normal(size=shape))
    files = (tmp_path / "real.npy", tmp_path / "generated.npy")
    report = json.loads(done("evaluate", *files, "--draws", 2, "--k", 1, "--num-hyperplanes", 3, "--json"))
    lsh = report["metrics"]["lsh_precision_recall"]
    assert (lsh["draws"], lsh["k"], lsh["num_hyperplanes"]) == (2, 1, 3)
    assert (report["conditions"]["n_real"], report["conditions"]["n_generated"]) == (50, 40)
    flags = (*[tmp_path / "few.npy"] * 2, "--metric", "frechet_distance", "--metric", "kernel_distance", "--json")
    code, _, err = call("evaluate", *flags)
    assert code == 1 and "allow_singular=True" in err
    options = ("--option", "frechet_distance.allow_singular=True", "--option", "subset_size=4")
    found = json.loads(done("evaluate", *flags, *options))["conditions"]["metric_options"]
    assert found["frechet_distance"]["allow_singular"] is True
    assert found["kernel_distance"]["subset_size"] == 4


@pytest.mark.process
def test_demo_prints_its_table_and_files(done, tmp_path, monkeypatch):
    from hf_ganzip.cli import demo

    monkeypatch.setattr(demo, "METHODS", ("linear",))
    monkeypatch.setattr(
        demo.DemoConfig, "__init__", partialmethod(demo.DemoConfig.__init__, bits=(4,), progress=False)
    )
    out = done("demo", "--num-samples", 200, "--output-dir", tmp_path / "demo")
    assert out.splitlines()[0].split()[:2] == ["method", "bits"]
    assert "200 generated against 200 real images" in out and "reloaded bit-exactly" in out
    assert re.search(
        r"int8: 8 bits, activations too, [\d,]+ bytes, in ONNX Runtime [\d.]+ ms an image; full precision in torch .* "
        r"times as fast",
        out,
    )
    assert (tmp_path / "demo" / "samples.png").is_file() and (tmp_path / "demo" / "model" / "config.json").is_file()


def test_study_of_a_diffusion_pipeline(done, tmp_path):
    pipeline = DDPMPipeline(tiny_unet(sample_size=8, in_channels=1, out_channels=1), DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "small-ddpm")
    flags = ("--method", "auto", "--method", "gptq", "--option", "gptq.batches=1", "--option", "gptq.progress=false")
    flags += ("--bits", 4, "--num-samples", 130, "--draws", 1, "--steps", 2, "--spacing", "quad", "--clip-sample")
    flags += ("--sqnr-images", 2, "--output-dir", tmp_path / "study")
    out = done("study", tmp_path / "small-ddpm", "--reference", REAL, *flags)
    assert out.splitlines()[0] == str(tmp_path / "study" / "report.md") and "| gptq | 4 |" in out
    assert "| auto | 4 |" in out and "study of small-ddpm" in out and "SQNR dB" in out
    assert "2 steps (quad spacing of 1000 timesteps, predicted images clipped)" in out


def test_compress_with_a_budget_and_options_of_the_method(done, folder, tmp_path):
    options = ["--option", "steps=2", "--option", "batch_size=2"]
    options += ["--option", "base=mse_clip", "--option", "progress=false"]
    method = ["--method", "latent_distill", "--granularity", "channel", "--scale-dtype", "float16"]
    report = json.loads(done("compress", folder, tmp_path / "small", *method, *options, "--mean-bits", "5", "--json"))
    assert report["bits_per_weight"] <= 5 and len({layer["bits"] for layer in report["layers"]}) > 2
    config = gz.load_model(tmp_path / "small").config.quantization_config.to_dict()
    assert config["method_options"]["steps"] == 2 and config["method_options"]["base"] == "mse_clip"
    assert config["bits"] == 5, "on which defaults depend"


def test_sensitivity_proposes_overrides(done, folder, tmp_path):
    options = ["--mean-bits", "4.5", "--num-samples", "4", "--plot", tmp_path / "plot.png"]
    found = json.loads(done("sensitivity", folder, "--bits", "2", "--bits", "8", *options, "--json"))
    assert size(tmp_path / "plot.png")[0] > 300
    assert set(found["overrides"]) == {layer["name"] for layer in found["layers"]}
    assert "4 bits" in done("sensitivity", folder, "--bits", "4", "--num-samples", "2")


def test_convert_sample_and_quantize_an_official_checkpoint(done, tmp_path):
    out = done("convert", PICKLE, tmp_path / "model", "--url", "https://example.org/x.pkl")
    assert "StyleGAN2Generator" in out and "licence: nvidia-source-code-license-nc" in out
    assert "https://example.org/x.pkl" in (tmp_path / "model" / "README.md").read_text()
    done("sample", tmp_path / "model", tmp_path / "grid.png", "--num-samples", "4")
    assert size(tmp_path / "grid.png")[0] > 4 * 32
    done("compress", tmp_path / "model", tmp_path / "small", "--bits", "4")
    more = ("--network", "D", "--license", "cc-by-nc-4.0", "--json")
    found = json.loads(done("convert", PICKLE, tmp_path / "d", *more))
    assert found["class"] == "StyleGAN2Discriminator" and found["source"]["license"] == "cc-by-nc-4.0"


def test_translate_a_folder_of_pictures(done, tmp_path):
    tiny_ugatit().save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (20, 30), (200, 10, 10)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    out = done("translate", tmp_path / "model", tmp_path / "in", "--output-dir", tmp_path / "out")
    assert "2 images written" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.png", "b.png", "a_heatmap.png", "b_heatmap.png"}
    assert size(tmp_path / "out" / "a.png") == (16, 16)


def test_prune_refine_quantize_one_by_one_or_by_recipe(call, done, folder, tmp_path):
    flags = ("--ratio", "0.5", "--criterion", "dcp", "--option", "samples=4")
    assert "operations by dcp" in done("prune", folder, tmp_path / "a", *flags)
    out = done("refine", tmp_path / "a", tmp_path / "b", "--plot", tmp_path / "spectra.png")
    assert "refined by sqrt" in out and (tmp_path / "spectra.png").is_file()
    done("compress", tmp_path / "b", tmp_path / "c")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("- {step: prune, criterion: random, ratio: 0.5}\n- step: refine\n- {step: quantize, bits: 3}\n")
    out = done("compress", folder, tmp_path / "d", "--recipe", recipe, "--json")
    assert [step["step"] for step in json.loads(out)] == ["prune", "refine", "quantize"]
    assert tuple(gz.load_model(tmp_path / "d").config.channels) == (8, 8, 4)
    for text, word in {
        "a: b": "is no recipe",
        "- {step: paint}": "step",
        "- {step: prune, colour: 1}": "colour",
    }.items():
        recipe.write_text(text)
        code, _, err = call("compress", folder, tmp_path / "e", "--recipe", recipe)
        assert code == 1 and word in err and not (tmp_path / "e").exists()


def test_info_of_a_pruned_unet(done, tmp_path):
    model = tiny_unet()
    gz.prune_(model, gz.PruneConfig("random", 0.5))
    model.save_pretrained(tmp_path)
    out = done("info", tmp_path)
    assert "indices of 22 channel sets" in out and "tensors have other shapes than the config says" in out
    assert json.loads(done("info", tmp_path, "--json"))["quantization"]["structure"]["shapes"]


@pytest.mark.parametrize("name", sorted(recipes()))
def test_example_recipes_run(done, folder, tmp_path, name):
    recipe = name
    if "ddpm" in name:  # a diffusion model, and images that lie here
        tiny_unet().save_pretrained(tmp_path / "unet")
        np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8), dtype="uint8"))
        text = recipes()[name].read_text()
        assert "{images: uoft-cs/cifar10," in text
        here = text.replace("{images: uoft-cs/cifar10,", f"{{images: {tmp_path}/images.npy, timesteps: 2,")
        (tmp_path / "recipe.yaml").write_text(here)
        folder, recipe = tmp_path / "unet", tmp_path / "recipe.yaml"
    done("compress", folder, tmp_path / "out", "--recipe", recipe)


@pytest.mark.process
def test_card_and_push_without_sending(call, done, packed, tmp_path):
    flags = ("--num-samples", "150", "--metric", "knn_precision_recall", "--json")
    (tmp_path / "report.json").write_text(done("evaluate", REAL, packed, *flags))
    flags = ("--report", tmp_path / "report.json", "--license", "mit", "--dataset", "org/images")
    out = done("card", packed, "me/small", *flags)
    assert "license: mit" in out and "KNN precision" in out and "- org/images" in out
    done("card", packed, "me/small", *flags, "--output", tmp_path / "cards" / "README.md")
    assert (tmp_path / "cards" / "README.md").read_text() == out
    found = json.loads(done("push", packed, "me/small", *flags, "--dry-run", "--samples", "2", "--json"))
    assert found["url"] == "" and "![Samples](samples.png)" in found["card"]
    (tmp_path / "report.json").write_text("{")
    code, _, err = call("card", packed, "me/small", *flags)
    assert code == 1 and "is no JSON" in err
    code, _, err = call("push", packed, "small", "--dry-run")
    assert code == 1 and "namespace/name" in err


def test_env(done):
    found = json.loads(done("env", "--json"))
    assert found["torch"] == torch.__version__ and found["accelerator"] and found["hf_ganzip"]
