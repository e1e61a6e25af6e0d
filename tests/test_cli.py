# SPDX-License-Identifier: Apache-2.0
"""The command as people run it, except that errors are looked at in this process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hf_ganzip as gz
from hf_ganzip import cli

from .conftest import run, tiny_generator, tiny_ugatit, tiny_unet


REAL = "fashion-mnist-test-5000"


@pytest.fixture
def folder(tmp_path):
    tiny_generator(resolution=16, image_channels=1).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run hf-ganzip with arguments: (exit code, standard output, standard error)."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["hf-ganzip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def size(path):
    with Image.open(path) as image:
        return image.size


def test_compress_then_info(call, folder, tmp_path):
    code, out, _ = call("compress", folder, tmp_path / "small", "--bits", "3", "--skip", "mapping.*")
    assert code == 0 and "bits per weight" in out and "skip pattern 'mapping.*'" in out
    model = gz.load_model(tmp_path / "small")
    assert model.config.quantization_config.quantize_config.bits == 3
    code, out, _ = call("info", tmp_path / "small")
    assert (
        code == 0 and "StyleGAN2Generator" in out and "synthesis.b8.conv0" in out and "step quantize of model" in out
    )
    code, out, _ = call("info", tmp_path / "small", "--json")
    description = json.loads(out)
    layer = next(layer for layer in description["layers"] if layer["name"] == "synthesis.b8.conv0")
    assert (layer["bits"], layer["bytes"]) == (3, 16 * 16 * 9 * 3 // 8 + 4)


def test_compress_json_of_a_diffusion_model(call, tmp_path):
    model = tiny_unet()
    model.save_pretrained(tmp_path / "unet")
    arguments = ("--method", "linear", "--bits", "8", "--granularity", "channel", "--last-block", "--json")
    code, out, _ = call("compress", tmp_path / "unet", tmp_path / "small", *arguments)
    report = json.loads(out)
    assert code == 0 and report["bytes_after"] < report["bytes_before"] / 3
    assert (run(gz.load_model(tmp_path / "small")) - run(model)).abs().max() < 0.1


def test_sample_grid_and_folder(call, folder, tmp_path):
    assert call("sample", folder, tmp_path / "grid.png", "--num-samples", 7)[0] == 0
    assert size(tmp_path / "grid.png")[0] > 7 * 16
    code, out, _ = call("sample", folder, tmp_path / "grid.png", "--num-samples", 2, "--json")
    assert json.loads(out) == {"output": str(tmp_path / "grid.png"), "num_samples": 2, "seed": 0}
    assert call("sample", folder, tmp_path / "images", "--num-samples", 3, "--class-label", 2, "--seed", 5)[0] == 0
    files = sorted((tmp_path / "images").glob("*.png"))
    assert len(files) == 3 and size(files[0]) == (16, 16)


def test_evaluate_prints_metrics_and_conditions(call, folder):
    code, out, _ = call("evaluate", REAL, folder, "--num-samples", 150, "--metrics", "knn_precision_recall", "--json")
    report = json.loads(out)
    assert code == 0 and set(report["metrics"]) == {"knn_precision_recall"}
    assert report["conditions"]["n_generated"] == 150 and report["conditions"]["n_real"] == 5000
    assert len(report["conditions"]["extractor_digest"]) == 64
    assert 0 <= report["metrics"]["knn_precision_recall"]["precision"] <= 1


def test_evaluate_compares_feature_files(call, tmp_path):
    np.save(tmp_path / "real.npy", np.random.default_rng(0).normal(size=(50, 4)))
    np.save(tmp_path / "generated.npy", np.random.default_rng(1).normal(size=(40, 4)))
    files = (tmp_path / "real.npy", tmp_path / "generated.npy")
    code, out, _ = call("evaluate", *files, "--draws", 2, "--k", 1, "--num-hyperplanes", 3, "--json")
    report = json.loads(out)
    lsh = report["metrics"]["lsh_precision_recall"]
    assert code == 0 and (lsh["draws"], lsh["k"], lsh["num_hyperplanes"]) == (2, 1, 3)
    assert (report["conditions"]["n_real"], report["conditions"]["n_generated"]) == (50, 40)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("compress", "{folder}", "{tmp}/x", "--bits", "1"), "bits is 1; allowed are integers from 2 to 8"),
        (("compress", "{folder}", "{tmp}/x", "--method", "acik"), "Did you mean 'aciq'"),
        (("compress", "{folder}", "{folder}"), "is not empty; choose a new folder"),
        (("compress", "{tmp}", "{tmp}/x"), "has no config.json"),
        (("sample", "{folder}", "{tmp}/x.png", "--class-label", "9"), "the model has 3 classes"),
        (("evaluate", REAL, "{folder}", "--metrics", "fidd"), "Unknown metric 'fidd'"),
        (("evaluate", "{tmp}/none.parquet", "{folder}"), "none.parquet"),
        (("evaluate", REAL, "{folder}", "--extractor", "vgg61"), "Unknown extractor 'vgg61'. Did you mean 'vgg16'"),
        (("evaluate", REAL, REAL, "--metrics", "frechet_distance", "--k", "2"), "has the option k"),
        (("info", "{tmp}"), "has no config.json"),
    ],
)
def test_errors_are_one_line_without_traceback(call, folder, tmp_path, arguments, message):
    code, out, err = call(*(a.format(folder=folder, tmp=tmp_path) for a in arguments))
    assert code == 1 and out == ""
    assert message in err and "Traceback" not in err and err.startswith("hf-ganzip: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_debug_shows_where_an_error_came_from(monkeypatch, call, tmp_path):
    monkeypatch.setattr(sys, "argv", ["hf-ganzip", "--debug", "info", str(tmp_path)])
    with pytest.raises(OSError, match="has no config.json"):
        cli.main()


def test_a_bug_is_called_one(monkeypatch, call):
    monkeypatch.setattr(cli.environment, "environment", lambda: {}["x"])
    code, out, err = call("env")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "KeyError" in err and "hf-ganzip --debug" in err


def test_version(call):
    assert call("--version")[:2] == (0, f"{gz.__version__}\n")


def test_every_command_takes_json():
    import typer

    group = typer.main.get_command(cli.app)
    commands = {name: command for name, command in group.commands.items() if name != "metrics"}
    commands |= {f"metrics {name}": command for name, command in group.commands["metrics"].commands.items()}
    without = [
        name for name, command in commands.items() if "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert len(commands) == 18 and without == []


def test_help_of_every_command():
    commands = ["demo", "compress", "sample", "evaluate", "info", "cost", "sensitivity", "study", "metrics install"]
    commands += ["convert", "translate", "prune", "refine", "card", "push", "env", "metrics push", "metrics list"]
    for command in ([], *(command.split() for command in commands)):
        code = ["-m", "hf_ganzip.cli", *command, "--help"]
        result = subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and "Usage" in result.stdout
        assert "torch" not in result.stderr


def test_fixed_seed_repeats_images(call, folder, tmp_path):
    for name in ("a", "b"):
        call("sample", folder, tmp_path / f"{name}.png", "--num-samples", 4, "--seed", 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert torch.initial_seed() == 0, "the global seed was changed"


def test_compress_with_a_budget_and_options_of_the_method(call, folder, tmp_path):
    options = [
        "--option",
        "steps=2",
        "--option",
        "batch_size=2",
        "--option",
        "base=mse_clip",
        "--option",
        "progress=false",
    ]
    method = ["--method", "latent_distill", "--granularity", "channel", "--scale-dtype", "float16"]
    code, out, _ = call("compress", folder, tmp_path / "small", *method, *options, "--mean-bits", "5", "--json")
    report = json.loads(out)
    assert code == 0 and report["bits_per_weight"] <= 5 and len({layer["bits"] for layer in report["layers"]}) > 2
    config = gz.load_model(tmp_path / "small").config.quantization_config.to_dict()
    assert config["method_options"]["steps"] == 2 and config["method_options"]["base"] == "mse_clip"
    code, _, error = call("compress", folder, tmp_path / "other", "--option", "steps")
    assert code == 1 and "is not NAME=VALUE" in error


def test_sensitivity_proposes_overrides(call, folder, tmp_path):
    options = ["--mean-bits", "4.5", "--num-samples", "4", "--plot", tmp_path / "plot.png"]
    code, out, _ = call("sensitivity", folder, "--bits", "2", "--bits", "8", *options, "--json")
    found = json.loads(out)
    assert code == 0 and size(tmp_path / "plot.png")[0] > 300
    assert set(found["overrides"]) == {layer["name"] for layer in found["layers"]}
    code, out, _ = call("sensitivity", folder, "--bits", "4", "--num-samples", "2")
    assert code == 0 and "4 bits" in out


def test_cost_says_what_did_not_improve(call, folder, tmp_path):
    call("compress", folder, tmp_path / "small")
    code, out, _ = call("cost", tmp_path / "small", "--reference", folder, "--repeats", "1", "--no-memory")
    assert code == 0 and "smaller on disk" in out and "macs" in out


PICKLE = Path(__file__).parent / "golden" / "pickles" / "stylegan2_small_skip.pkl"


def test_convert_sample_and_quantize_an_official_checkpoint(call, tmp_path):
    code, out, _ = call("convert", PICKLE, tmp_path / "model", "--url", "https://example.org/x.pkl")
    assert code == 0 and "StyleGAN2Generator" in out and "licence: nvidia-source-code-license-nc" in out
    assert "https://example.org/x.pkl" in (tmp_path / "model" / "README.md").read_text()
    assert call("sample", tmp_path / "model", tmp_path / "grid.png", "--num-samples", "4")[0] == 0
    assert size(tmp_path / "grid.png")[0] > 4 * 32
    assert call("compress", tmp_path / "model", tmp_path / "small", "--bits", "4")[0] == 0
    code, out, _ = call("convert", PICKLE, tmp_path / "d", "--network", "D", "--license", "cc-by-nc-4.0", "--json")
    found = json.loads(out)
    assert found["class"] == "StyleGAN2Discriminator" and found["source"]["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cos\nsystem\n(S'x'\ntR.", "x.pkl: the pickle asks for os.system"),
        (b"<html>", "x.pkl: pickle instruction"),
        (None, "no file or folder"),
    ],
)
def test_convert_refuses_in_one_line(call, tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.pkl").write_bytes(content)
    code, _, err = call("convert", tmp_path / "x.pkl", tmp_path / "out")
    assert code == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_convert_keeps_what_is_there(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    code, _, err = call("convert", PICKLE, tmp_path / "out")
    assert code == 1 and "is not empty" in err


def test_translate_a_folder_of_pictures(call, tmp_path):
    tiny_ugatit().save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (20, 30), (200, 10, 10)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    code, out, _ = call("translate", tmp_path / "model", tmp_path / "in", "--output-dir", tmp_path / "out")
    assert code == 0 and "2 images written" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.png", "b.png", "a_heatmap.png", "b_heatmap.png"}
    assert size(tmp_path / "out" / "a.png") == (16, 16)
    code, _, err = call("translate", tmp_path / "model", tmp_path / "in" / "notes.txt")
    assert code == 1 and "no PNG, JPEG or WebP images" in err


def test_translate_needs_a_translation_model(call, folder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, _, err = call("translate", folder, tmp_path / "a.png", "--output-dir", tmp_path / "out")
    assert code == 1 and "needs a UGATITGenerator" in err


def test_prune_refine_quantize_one_by_one_or_by_recipe(call, folder, tmp_path):
    code, out, _ = call(
        "prune", folder, tmp_path / "a", "--ratio", "0.5", "--criterion", "dcp", "--option", "samples=4"
    )
    assert code == 0 and "operations by dcp" in out
    code, out, _ = call("refine", tmp_path / "a", tmp_path / "b", "--plot", tmp_path / "spectra.png")
    assert code == 0 and "refined by sqrt" in out and (tmp_path / "spectra.png").is_file()
    assert call("compress", tmp_path / "b", tmp_path / "c")[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("- {step: prune, criterion: random, ratio: 0.5}\n- step: refine\n- {step: quantize, bits: 3}\n")
    code, out, _ = call("compress", folder, tmp_path / "d", "--recipe", recipe, "--json")
    assert code == 0 and [step["step"] for step in json.loads(out)] == ["prune", "refine", "quantize"]
    assert tuple(gz.load_model(tmp_path / "d").config.channels) == (8, 8, 4)
    for text, message in (
        ("a: b", "is no recipe"),
        ("- {step: paint}", "step"),
        ("- {step: prune, colour: 1}", "colour"),
    ):
        recipe.write_text(text)
        code, _, err = call("compress", folder, tmp_path / "e", "--recipe", recipe)
        assert code == 1 and message in err and not (tmp_path / "e").exists()


def test_info_of_a_pruned_unet(call, tmp_path):
    model = tiny_unet()
    gz.prune_(model, gz.PruneConfig("random", 0.5))
    model.save_pretrained(tmp_path)
    code, out, _ = call("info", tmp_path)
    assert (
        code == 0 and "indices of 22 channel sets" in out and "tensors have other shapes than the config says" in out
    )
    assert json.loads(call("info", tmp_path, "--json")[1])["quantization"]["structure"]["shapes"]


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*.yaml")))
def test_example_recipes_run(call, folder, tmp_path, recipe):
    if "ddpm" in recipe.name:  # a diffusion model, and images that lie here
        tiny_unet().save_pretrained(tmp_path / "unet")
        np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8), dtype="uint8"))
        options = f"{{images: {tmp_path}/images.npy, timesteps: 2,"
        (tmp_path / "recipe.yaml").write_text(recipe.read_text().replace("{images: cifar10,", options))
        folder, recipe = tmp_path / "unet", tmp_path / "recipe.yaml"
    assert call("compress", folder, tmp_path / "out", "--recipe", recipe)[0] == 0


def test_card_and_push_without_sending(call, folder, tmp_path):
    call("compress", folder, tmp_path / "small", "--bits", "3")
    flags = ("--num-samples", "150", "--metrics", "knn_precision_recall", "--json")
    code, out, _ = call("evaluate", REAL, tmp_path / "small", *flags)
    (tmp_path / "report.json").write_text(out)
    flags = ("--report", tmp_path / "report.json", "--license", "mit", "--dataset", "org/images")
    code, out, _ = call("card", tmp_path / "small", "me/small", *flags)
    assert code == 0 and "license: mit" in out and "KNN precision" in out and "- org/images" in out
    code, _, _ = call("card", tmp_path / "small", "me/small", *flags, "--output", tmp_path / "cards" / "README.md")
    assert (tmp_path / "cards" / "README.md").read_text() == out
    code, out, err = call("push", tmp_path / "small", "me/small", *flags, "--dry-run", "--samples", "2", "--json")
    found = json.loads(out)
    assert code == 0 and found["url"] == "" and "![Samples](samples.png)" in found["card"]
    (tmp_path / "report.json").write_text("{")
    code, _, err = call("card", tmp_path / "small", "me/small", *flags)
    assert code == 1 and "is no JSON" in err
    code, _, err = call("push", tmp_path / "small", "small", "--dry-run")
    assert code == 1 and "namespace/name" in err


def test_env(call):
    code, out, _ = call("env", "--json")
    found = json.loads(out)
    assert code == 0 and found["torch"] == torch.__version__ and found["accelerator"] and found["hf_ganzip"]
