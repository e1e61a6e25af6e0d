# SPDX-License-Identifier: Apache-2.0
"""The command as people run it, except that errors are looked at in this process."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
from PIL import Image

import hf_ganzip as gz
from hf_ganzip import cli

from .conftest import run, tiny_generator, tiny_ugatit, tiny_unet


REAL = "fashion-mnist-test-5000"
ROOT = Path(__file__).parents[1]
PICKLE = str(ROOT / "tests" / "golden" / "pickles" / "stylegan2_small_skip.pkl")
THUMBNAIL = str(ROOT / "examples" / "space_compress" / "thumbnail.png")


@pytest.fixture
def folder(tmp_path):
    tiny_generator(resolution=16, image_channels=1).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def size(path):
    with Image.open(path) as image:
        return image.size


def test_compress_then_info(call, folder, tmp_path):
    code, out, _ = call("compress", folder, tmp_path / "small", "--bits", "3", "--skip", "mapping.*")
    assert code == 0 and "bits per weight" in out and "skip pattern 'mapping.*'" in out
    model = gz.load_model(tmp_path / "small")
    assert model.config.quantization_config.quantize_config.bits == 3
    code, out, _ = call("info", tmp_path / "small")
    assert code == 0
    assert all(each in out for each in ("StyleGAN2Generator", "synthesis.b8.conv0", "step quantize of model"))
    code, out, _ = call("info", tmp_path / "small", "--json")
    description = json.loads(out)
    layer = next(layer for layer in description["layers"] if layer["name"] == "synthesis.b8.conv0")
    levels_and_scales = 2 * (2**3 + 16)
    assert (layer["bits"], layer["bytes"]) == (3, 16 * 16 * 9 * 3 // 8 + levels_and_scales)


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
    for name in ("grid.JPG", "grid.webp"):
        assert call("sample", folder, tmp_path / name, "--num-samples", 2)[0] == 0 and size(tmp_path / name)[0] > 32
    assert call("sample", folder, tmp_path / "run-0.5", "--num-samples", 2)[0] == 0
    code, _, err = call("sample", folder, tmp_path / "images", "--num-samples", 1)
    assert code == 1 and "is not empty" in err and sorted((tmp_path / "images").glob("*.png")) == files


def test_evaluate_prints_metrics_and_conditions(call, folder):
    code, out, _ = call("evaluate", REAL, folder, "--num-samples", 150, "--metric", "knn_precision_recall", "--json")
    report = json.loads(out)
    assert code == 0 and set(report["metrics"]) == {"knn_precision_recall"}
    assert report["conditions"]["n_generated"] == 150 and report["conditions"]["n_real"] == 5000
    assert len(report["conditions"]["extractor_digest"]) == 64
    assert 0 <= report["metrics"]["knn_precision_recall"]["precision"] <= 1


def test_evaluate_takes_options_of_metrics(call, tmp_path):
    np.save(tmp_path / "real.npy", np.random.default_rng(0).normal(size=(5, 8)))
    flags = ("--metric", "frechet_distance", "--metric", "kernel_distance", "--json")
    files = (tmp_path / "real.npy", tmp_path / "real.npy")
    code, _, err = call("evaluate", *files, *flags)
    assert code == 1 and "allow_singular=True" in err
    options = ("--option", "frechet_distance.allow_singular=True", "--option", "subset_size=4")
    code, out, _ = call("evaluate", *files, *flags, *options)
    found = json.loads(out)["conditions"]["metric_options"]
    assert code == 0 and found["frechet_distance"]["allow_singular"] is True
    assert found["kernel_distance"]["subset_size"] == 4


def test_text_to_image_pipelines_sample_prompts(call, folder, tmp_path):
    pytest.importorskip("transformers")
    from .test_transformers import tiny_pipeline

    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("b\n\n")
    flags = ("--prompt", "a", "--prompts-file", tmp_path / "prompts.txt", "--steps", 2, "--guidance-scale", 3)

    def pictures(name, *more):
        code, out, err = call("sample", tmp_path / "pipe", tmp_path / name, *flags, "--json", *more)
        assert code == 0, err
        files = sorted((tmp_path / name).glob("*.png"))
        return [np.asarray(Image.open(file)) for file in files], json.loads(out)

    two, told = pictures("two")
    assert told["num_samples"] == 2 and told["prompts"] == ["a", "b"] and two[0].shape == (16, 16, 3)
    four, _ = pictures("four", "--num-samples", 4, "--batch-size", 3)
    assert len(four) == 4 and all(abs(a.astype(int) - b).max() <= 1 for a, b in zip(two, four))
    assert (four[0] != four[2]).any()
    assert (pictures("other", "--seed", 1)[0][0] != two[0]).any()
    assert call("sample", tmp_path / "pipe", tmp_path / "grid.png", *flags)[0] == 0
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


def test_pipelines_are_taken_like_their_network(call, tmp_path):
    DDPMPipeline(tiny_unet(in_channels=1, out_channels=1), DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    code, out, _ = call("info", tmp_path / "pipe")
    assert code == 0
    assert all(each in out for each in ("DDPMPipeline in", "unet: UNet2DModel in", "scheduler: DDPMScheduler"))
    assert json.loads(call("info", tmp_path / "pipe", "--json")[1])["parts"]["unet"]["tensors"] > 10
    assert call("sample", tmp_path / "pipe", tmp_path / "grid.png", "--num-samples", 2, "--steps", 2)[0] == 0
    assert call("compress", tmp_path / "pipe", tmp_path / "small")[0] == 0
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "small")) is DDPMPipeline
    code, out, _ = call("compress", tmp_path / "pipe", tmp_path / "alone", "--subfolder", "unet", "--json")
    assert code == 0 and "layers" in json.loads(out) and (tmp_path / "alone" / "config.json").is_file()
    assert call("cost", tmp_path / "small", "--base", tmp_path / "pipe", "--repeats", 1, "--no-memory")[0] == 0
    flags = ("--num-samples", 5, "--steps", 3, "--clip-sample", "--metric", "knn_precision_recall", "--json")
    np.save(tmp_path / "real.npy", np.zeros((5, 1, 8, 8), np.uint8))
    code, out, _ = call("evaluate", tmp_path / "real.npy", tmp_path / "pipe", *flags)
    conditions = json.loads(out)["conditions"]
    assert code == 0 and (conditions["steps"], conditions["clip_sample"]) == (4, True)


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
        (("compress", "{folder}", "{tmp}/x", "--method", "acik"), "Did you mean 'aciq'"),
        (("compress", "{folder}", "{folder}"), "is not empty; choose a new folder"),
        (("compress", "{tmp}", "{tmp}/x"), "has no config.json"),
        (("compress", "{folder}", "{file}"), "is a file; choose a folder"),
        (("compress", "{folder}", "{file}/x"), "x cannot be written: Not a directory"),
        (("refine", "{folder}", "{tmp}/x", "--plot", "{file}/x/plot.png"), "x cannot be written: Not a directory"),
        (("sample", "{folder}", "{folder}"), "is not empty; choose a new folder"),
        (("convert", PICKLE, "{folder}"), "is not empty; choose a new folder"),
        (("translate", "{folder}", THUMBNAIL, "--output-dir", "{tmp}/x"), "needs a UGATITGenerator"),
        (("info", "stylegan2-fashion-mnis"), "Did you mean 'stylegan2-fashion-mnist'"),
        (("info", "{file}"), "is a file; allowed are the folder of a saved model"),
        (("info", "org/none"), "org/none: no such folder here, and not on the Hub, or no connection"),
        (("info", "{tmp}/none"), "none, and a Hub id has the form NAMESPACE/NAME"),
        (("prune", "{folder}", "{tmp}/x", "--criterion", "taylor", "--data", REAL), "are for criteria of diffusion"),
        (("evaluate", REAL, REAL, "--steps", "9"), "steps is for models; fashion-mnist-test-5000 is none"),
        (("evaluate", REAL, "{folder}", "--option", "kernel_distance.degree=2"), "the option kernel_distance.degree"),
        (("evaluate", "fashion-mnist-tst-5000", "{folder}"), "Did you mean 'fashion-mnist-test-5000'"),
        (("study", "{folder}", "--reference", REAL, "--output-dir", "{file}"), "is a file; choose a folder"),
        (("study", "{folder}", "--reference", REAL, "--output-dir", "{tmp}/x", "--num-samples", "9"), "128 features"),
        (("demo", "--output-dir", "{file}"), "is a file; choose a folder"),
        (("sample", "{folder}", "{tmp}/x.png", "--class-label", "9"), "the model has 3 classes"),
        (("evaluate", REAL, "{folder}", "--metric", "fidd"), "Unknown metric 'fidd'"),
        (("evaluate", "{tmp}/none.parquet", "{folder}"), "none.parquet"),
        (("evaluate", REAL, "{folder}", "--extractor", "vgg61"), "Unknown extractor 'vgg61'. Did you mean 'vgg16'"),
        (("evaluate", REAL, REAL, "--metric", "frechet_distance", "--k", "2"), "has the option k"),
        (("info", "{tmp}"), "has no config.json"),
        (("compress", "{folder}", "{tmp}/x", "--component", "unet"), "--component is ['unet'], but"),
        (("sample", "{folder}", "{tmp}/x", "--device", "cuda:99"), "--device is cuda:99; allowed are cpu and what"),
        (("info", "{folder}", "--subfolder", "unet"), "--subfolder is 'unet', but"),
        (("cost", "{folder}", "--revision", "main"), "--revision is 'main', but"),
    ],
)
def test_errors_are_one_line_without_traceback(call, folder, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    code, out, err = call(*(a.format(folder=folder, tmp=tmp_path, file=tmp_path / "file") for a in arguments))
    assert code == 1 and out == ""
    assert message in err and "Traceback" not in err and err.startswith("hf-ganzip: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("compress", "--bits", "1"), "Invalid value for '--bits'"),
        (("compress", "--bits", "4", "--mean-bits", "5"), "--mean-bits takes the place of --bits"),
        (
            ("compress", "--recipe", "r.yaml", "--bits", "4", "--skip", "x"),
            "--recipe takes the place of --bits, --skip",
        ),
        (("prune", "--ratio", "0.5", "--max-params", "9"), "--max-params takes the place of --ratio"),
        (("prune", "--max-macs", "9", "--max-params", "9"), "--max-params takes the place of --max-macs"),
        (("study", "--reference", REAL, "--bits", "9"), "Invalid value for '--bits'"),
        (("study", "--reference", REAL, "--option", "steps=3"), "write METHOD.steps=VALUE"),
        (("evaluate", REAL, "--k", "3", "--option", "k=2"), "k is given both as an option of its own and by --option"),
        (("sample", "{tmp}/grid.gif"), "grid.gif is no folder; files of grids end in .png, .jpg, .jpeg, .webp"),
        (("sample", "{tmp}/grid.pgn"), "grid.pgn is no folder; files of grids end in"),
        (("compress", "--dtype", "float8"), "Invalid value for '--dtype'"),
    ],
)
def test_wrong_usage_ends_with_2(call, folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("COLUMNS", "200")
    command, *rest = (argument.format(tmp=tmp_path) for argument in arguments)
    places = {"evaluate": [*rest[:1], folder], "study": [folder], "sample": [folder]}
    rest = rest[1:] if command == "evaluate" else rest
    code, out, err = call(command, *places.get(command, [folder, tmp_path / "x"]), *rest)
    assert code == 2 and out == "" and message in " ".join(err.split()) and "Traceback" not in err
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


@pytest.fixture
def group():
    return typer.main.get_command(cli.app)


def test_every_command_takes_json(group):
    commands = {name: command for name, command in group.commands.items() if name != "metrics"}
    commands |= {f"metrics {name}": command for name, command in group.commands["metrics"].commands.items()}
    without = [
        name for name, command in commands.items() if "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert len(commands) == 23 and without == ["train", "finetune"]  # which print what their scripts print


def test_commands_are_listed_in_the_order_of_use(group):
    names = group.list_commands(None)
    assert names[:5] == ["demo", "convert", "info", "sample", "compress"] and names[-1] == "env"
    assert set(names) == set(group.commands)


def hf_ganzip(*arguments, environment=None, **options):
    """The command in a process of its own."""
    code = "import sys; from hf_ganzip.cli import main; sys.argv[0] = 'hf-ganzip'; main()"
    return subprocess.Popen(
        [sys.executable, *options.pop("python", ()), "-c", code, *map(str, arguments)],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.process
@pytest.mark.parametrize(
    "line, expected",
    [
        ("compress MODEL OUT --method a", ["aciq", "auto"]),
        ("study MODEL --method gptq", ["gptq", "gptq best", "gptq best mixed", "gptq mixed"]),
        ("prune MODEL OUT --criterion d", ["dcp", "diff_prune"]),
        ("refine MODEL OUT --scaling s", ["sqrt", "spectral", "square"]),
        ("evaluate A B --extractor v", ["vgg16"]),
        ("evaluate A B --metric k", ["knn_precision_recall", "kernel_distance", "kid", "knn"]),
        ("evaluate fashion-mnist-t", ["fashion-mnist-test-5000"]),
        ("info big", ["biggan-fashion-mnist"]),
        ("transl", ["translate"]),
    ],
)
def test_completion_without_torch(line, expected):
    words = ["hf-ganzip", *line.split()]
    asked = {"_HF_GANZIP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    out, err = hf_ganzip(environment=asked, python=("-X", "importtime")).communicate(timeout=60)
    assert sorted(out.splitlines()) == sorted(expected)
    assert not re.search(r"\| +(torch|diffusers|numpy)$", err, re.MULTILINE)


def test_completion_script():
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    process = hf_ganzip("--show-completion", "bash", environment=environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "_HF_GANZIP_COMPLETE=complete_bash" in out, err


def test_completed_values_are_those_of_the_registries():
    from hf_ganzip.cli import completion
    from hf_ganzip.evaluation.extractors import EXTRACTORS
    from hf_ganzip.metrics import ALIASES, METRICS, OF_LOGITS
    from hf_ganzip.pruning import CRITERIA
    from hf_ganzip.quantization.methods import METHODS
    from hf_ganzip.refine.scalings import SCALINGS
    from hf_ganzip.studies.compression_config import VARIANTS

    registries = {"methods": METHODS, "studied": VARIANTS, "criteria": CRITERIA, "scalings": SCALINGS}
    for name, registry in (registries | {"extractors": EXTRACTORS, "metrics": METRICS}).items():
        assert getattr(completion, name)("") == list(registry)
    assert completion.measured("") == [*METRICS, *OF_LOGITS, *ALIASES]


@pytest.mark.process
def test_a_closed_pipe_is_silent():
    process = hf_ganzip("info", "stylegan2-fashion-mnist")
    process.stdout.close()
    with process.stderr as said:
        assert said.read() == "" and process.wait(timeout=60) == 1


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_is_silent(tmp_path):
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  (whatever ran the tests)
    process = hf_ganzip("demo", "--output-dir", tmp_path / "demo", preexec_fn=listen)
    text = ""
    while "demo" not in text:  # the progress bar
        text += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "hf-ganzip:" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_unwritable_output_is_found_before_the_work(call, monkeypatch):
    monkeypatch.setattr(cli.compression, "open_whole", None)
    for command in ("compress", "prune", "refine"):
        code, _, err = call(command, "stylegan2-fashion-mnist", "/proc/nothing/model")
        assert code == 1 and "/proc/nothing/model cannot be written: " in err


@pytest.mark.process
def test_demo_prints_its_table_and_files(call, tmp_path, monkeypatch):
    from hf_ganzip.cli import demo

    monkeypatch.setattr(demo, "METHODS", ("linear",))
    monkeypatch.setattr(
        demo.DemoConfig, "__init__", partialmethod(demo.DemoConfig.__init__, bits=(4,), progress=False)
    )
    code, out, _ = call("demo", "--num-samples", 200, "--output-dir", tmp_path / "demo")
    assert code == 0 and out.splitlines()[0].split()[:2] == ["method", "bits"]
    assert "200 generated against 200 real images" in out and "reloaded bit-exactly" in out
    assert re.search(
        r"int8: 8 bits, activations too, [\d,]+ bytes, in ONNX Runtime [\d.]+ ms an image; full precision in torch .* times as fast",
        out,
    )
    assert (tmp_path / "demo" / "samples.png").is_file() and (tmp_path / "demo" / "model" / "config.json").is_file()


@pytest.mark.process
def test_study_prints_its_report(call, tmp_path):
    flags = ("--method", "linear", "--method", "gptq", "--option", "gptq.batches=1", "--option", "gptq.progress=false")
    small = ("--bits", 4, "--num-samples", 130, "--draws", 1, "--output-dir", tmp_path / "study")
    code, out, _ = call("study", "stylegan2-fashion-mnist", "--reference", REAL, *flags, *small)
    assert code == 0 and out.splitlines()[0] == str(tmp_path / "study" / "report.md") and "| gptq | 4 |" in out


def test_study_of_a_diffusion_pipeline(call, tmp_path):
    pipeline = DDPMPipeline(tiny_unet(sample_size=8, in_channels=1, out_channels=1), DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "small-ddpm")
    flags = ("--method", "auto", "--bits", 4, "--num-samples", 130, "--draws", 1, "--steps", 2, "--spacing", "quad")
    flags += ("--clip-sample", "--sqnr-images", 2, "--output-dir", tmp_path / "study")
    code, out, _ = call("study", tmp_path / "small-ddpm", "--reference", REAL, *flags)
    assert code == 0 and "| auto | 4 |" in out and "study of small-ddpm" in out and "SQNR dB" in out
    assert "2 steps (quad spacing of 1000 timesteps, predicted images clipped)" in out


@pytest.mark.process
def test_help_of_every_command(group):
    own = set(group.commands) - {"train", "finetune"}  # their help is that of scripts
    for command in (
        [],
        *([name] for name in own),
        *(["metrics", name] for name in group.commands["metrics"].commands),
    ):
        code = ["-m", "hf_ganzip", *command, "--help"]
        result = subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and "Usage" in result.stdout
        assert "torch" not in result.stderr


def test_fixed_seed_repeats_images(call, folder, tmp_path):
    for name in ("a", "b"):
        call("sample", folder, tmp_path / f"{name}.png", "--num-samples", 4, "--seed", 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert torch.initial_seed() == 0, "the global seed was changed"


def test_compress_with_activations(call, folder, tmp_path):
    options = ("--bits", "8", "--activations", "int8", "--activation-range", "minmax", "--bias-correction")
    code, _, error = call("compress", folder, tmp_path / "small", *options)
    assert code == 0, error
    config = gz.load_model(tmp_path / "small").config.quantization_config.to_dict()
    assert (config["activations"], config["activation_range"], config["bias_correction"]) == ("int8", "minmax", True)
    code, _, error = call("compress", folder, tmp_path / "other", "--activations", "int4")
    assert code == 1 and "--activations is 'int4'; allowed are None and 'int8'" in error


def test_compress_with_a_budget_and_options_of_the_method(call, folder, tmp_path):
    options = ["--option", "steps=2", "--option", "batch_size=2"]
    options += ["--option", "base=mse_clip", "--option", "progress=false"]
    method = ["--method", "latent_distill", "--granularity", "channel", "--scale-dtype", "float16"]
    code, out, _ = call("compress", folder, tmp_path / "small", *method, *options, "--mean-bits", "5", "--json")
    report = json.loads(out)
    assert code == 0 and report["bits_per_weight"] <= 5 and len({layer["bits"] for layer in report["layers"]}) > 2
    config = gz.load_model(tmp_path / "small").config.quantization_config.to_dict()
    assert config["method_options"]["steps"] == 2 and config["method_options"]["base"] == "mse_clip"
    assert config["bits"] == 5, "on which defaults depend"
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
    code, out, _ = call("cost", tmp_path / "small", "--base", folder, "--repeats", "1", "--no-memory")
    assert code == 0 and "smaller on disk" in out and "macs" in out


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
    assert code == 1 and "notes.txt is no PNG, JPEG or WebP file" in err


def test_translate_overwrites_and_skips_nothing(call, tmp_path):
    tiny_ugatit().save_pretrained(tmp_path / "model")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x_heatmap.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "z.bmp")
    (tmp_path / "broken.png").write_text("x")
    (tmp_path / "file").write_text("x")
    for arguments, message in (
        (("a", "b"), "b/x.png would both be written to x.png"),
        (("a/x.png", "x_heatmap.png"), "would both be written to x_heatmap.png"),
        (("a", "z.bmp"), "z.bmp is no PNG, JPEG or WebP file"),
        (("broken.png",), "broken.png is not a readable image"),
        (("a", "--output-dir", "a"), "a holds x.png, which would be overwritten"),
        (("a", "--output-dir", "file"), "file is a file; choose a folder"),
    ):
        flags = () if "--output-dir" in arguments else ("--output-dir", tmp_path / "out")
        places = [each if each.startswith("--") else tmp_path / each for each in arguments]
        code, out, err = call("translate", tmp_path / "model", *places, *flags)
        assert code == 1 and message in err and "bug" not in err and not list((tmp_path).glob("out/*"))


def test_prune_refine_quantize_one_by_one_or_by_recipe(call, folder, tmp_path):
    flags = ("--ratio", "0.5", "--criterion", "dcp", "--option", "samples=4")
    code, out, _ = call("prune", folder, tmp_path / "a", *flags)
    assert code == 0 and "operations by dcp" in out
    code, out, _ = call("refine", tmp_path / "a", tmp_path / "b", "--plot", tmp_path / "spectra.png")
    assert code == 0 and "refined by sqrt" in out and (tmp_path / "spectra.png").is_file()
    assert call("compress", tmp_path / "b", tmp_path / "c")[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("- {step: prune, criterion: random, ratio: 0.5}\n- step: refine\n- {step: quantize, bits: 3}\n")
    code, out, _ = call("compress", folder, tmp_path / "d", "--recipe", recipe, "--json")
    assert code == 0 and [step["step"] for step in json.loads(out)] == ["prune", "refine", "quantize"]
    assert tuple(gz.load_model(tmp_path / "d").config.channels) == (8, 8, 4)
    for text, word in (
        ("a: b", "is no recipe"),
        ("- {step: paint}", "step"),
        ("- {step: prune, colour: 1}", "colour"),
    ):
        recipe.write_text(text)
        code, _, err = call("compress", folder, tmp_path / "e", "--recipe", recipe)
        assert code == 1 and word in err and not (tmp_path / "e").exists()


def test_info_of_a_pruned_unet(call, tmp_path):
    model = tiny_unet()
    gz.prune_(model, gz.PruneConfig("random", 0.5))
    model.save_pretrained(tmp_path)
    code, out, _ = call("info", tmp_path)
    assert code == 0 and "indices of 22 channel sets" in out
    assert "tensors have other shapes than the config says" in out
    assert json.loads(call("info", tmp_path, "--json")[1])["quantization"]["structure"]["shapes"]


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples" / "recipes").glob("*.yaml")))
def test_example_recipes_run(call, folder, tmp_path, recipe):
    if "ddpm" in recipe.name:  # a diffusion model, and images that lie here
        tiny_unet().save_pretrained(tmp_path / "unet")
        np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8), dtype="uint8"))
        options = f"{{images: {tmp_path}/images.npy, timesteps: 2,"
        text = recipe.read_text().replace("{images: uoft-cs/cifar10,", options)
        assert text != recipe.read_text()
        (tmp_path / "recipe.yaml").write_text(text)
        folder, recipe = tmp_path / "unet", tmp_path / "recipe.yaml"
    assert call("compress", folder, tmp_path / "out", "--recipe", recipe)[0] == 0


@pytest.mark.process
def test_card_and_push_without_sending(call, folder, tmp_path):
    call("compress", folder, tmp_path / "small", "--bits", "3")
    flags = ("--num-samples", "150", "--metric", "knn_precision_recall", "--json")
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
