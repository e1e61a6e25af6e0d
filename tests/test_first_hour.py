# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

from pathlib import Path

import pytest


# --- models: quantize_, dequantize_, compile, memory


def test_fine_tuning_after_dequantizing_trains():
    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    model.mapping.requires_grad_(False)  # what the user froze
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gz.quantize_(model)
    assert all(parameter.requires_grad == trainable[name] for name, parameter in model.named_parameters())
    gz.dequantize_(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trainable
    run(model)


def test_a_saved_and_dequantized_model_is_trainable_like_any_other(tmp_path):
    import hf_ganzip as gz

    from .conftest import tiny_generator

    model = tiny_generator()
    gz.quantize_(model)
    model.save_pretrained(tmp_path)
    restored = gz.StyleGAN2Generator.from_pretrained(tmp_path)
    gz.dequantize_(restored)
    assert all(parameter.requires_grad for parameter in restored.parameters())


def test_a_compiled_model_can_be_called_twice():
    import torch
    from torch import nn

    import hf_ganzip as gz

    m = nn.Sequential(nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 2, 2)
    gz.quantize_(m)
    c = torch.compile(m, backend="aot_eager")
    with torch.no_grad():
        expected = m(x)
        for _ in range(3):
            torch.testing.assert_close(c(x), expected)


@pytest.mark.parametrize("compute", ["packed", "dequantized"])
def test_one_truth_about_size(compute, call, tmp_path):
    import json

    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    parameters = model.num_parameters()
    report = gz.quantize_(model, gz.QuantizeConfig(compute=compute))
    run(model)
    held = report.bytes_after if compute == "packed" else report.bytes_after + report.unpacked_bytes
    assert (model.num_parameters(), model.get_memory_footprint()) == (parameters, held)
    model.save_pretrained(tmp_path / "small")
    code, out, _ = call("cost", tmp_path / "small", "--no-memory", "--json")
    cost = json.loads(out)["model"]
    assert code == 0 and (cost["parameters"], cost["bytes_in_memory"]) == (parameters, held)


# --- loading and saving: from_pretrained, configs, casting, LoRA


def test_a_pruned_folder_is_quantized_by_from_pretrained(tmp_path):
    import pytest
    import torch
    from diffusers import UNet2DModel

    import hf_ganzip as gz

    from .conftest import run, tiny_unet

    unet = tiny_unet()
    gz.prune_(unet, gz.PruneConfig("random", 0.5))
    unet.save_pretrained(tmp_path / "pruned")
    unet = UNet2DModel.from_pretrained(tmp_path / "pruned", quantization_config=gz.GanzipConfig(bits=4))
    assert unet.hf_quantizer.report.quantized
    unet.save_pretrained(tmp_path / "small")
    assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "small")), run(unet))
    with pytest.raises(ValueError, match="quantized already .*; load it without quantization_config="):
        UNet2DModel.from_pretrained(tmp_path / "small", quantization_config=gz.GanzipConfig(bits=2))


def test_one_config_serves_both_doors(tmp_path):
    import torch

    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    tiny_generator().save_pretrained(tmp_path)
    outputs = []
    for config in (gz.GanzipConfig(bits=4), gz.QuantizeConfig(bits=4)):
        loaded = gz.StyleGAN2Generator.from_pretrained(tmp_path, quantization_config=config)
        in_memory = gz.StyleGAN2Generator.from_pretrained(tmp_path)
        gz.quantize_(in_memory, config)
        assert loaded.config.quantization_config.layers == in_memory.config.quantization_config.layers
        outputs += [run(loaded), run(in_memory)]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_quantize_takes_a_method_or_options():
    import pytest

    import hf_ganzip as gz

    from .conftest import tiny_generator

    for args, options, method, bits in (
        (("aciq",), {}, "aciq", 4),
        (("codebook",), {"bits": 3, "headroom": 0}, "codebook", 3),
        ((), {"bits": 3, "headroom": 0}, "auto", 3),
        ((), {"bits": 3, "preset": "paper"}, "aciq", 3),
        (("linear",), {"bits": 5}, "linear", 5),
        ((), {"modules_to_not_convert": ["mapping"], "headroom": 0}, "auto", 4),
    ):
        report = gz.quantize_(tiny_generator(), *args, **options)
        assert {(layer.method, layer.bits) for layer in report.quantized} == {(method, bits)}
    assert not any(layer.name.startswith("mapping") for layer in report.quantized)
    with pytest.raises(TypeError, match="no option 'bit'. Did you mean 'bits'?"):
        gz.quantize_(tiny_generator(), bit=4)


def test_bundled_names_open_classes_and_pipelines():
    import pytest

    import hf_ganzip as gz

    g = gz.StyleGAN2Generator.from_pretrained("stylegan2-fashion-mnist")
    assert g.config.resolution == 32
    pipe = gz.GANPipeline.from_pretrained("stylegan2-fashion-mnist")
    assert len(pipe(batch_size=2).images) == 2
    for cls in (gz.StyleGAN2Generator, gz.GANPipeline):
        with pytest.raises(ValueError, match="Did you mean 'stylegan2-fashion-mnist'?"):
            cls.from_pretrained("stylegan2-fashion-mnits")


def test_a_pipeline_opens_the_folder_of_a_generator(tmp_path):
    import hf_ganzip as gz

    from .conftest import tiny_generator

    g = tiny_generator()
    gz.quantize_(g, bits=4)
    g.save_pretrained(tmp_path)
    pipe = gz.GANPipeline.from_pretrained(tmp_path, class_names=["shirt", "shoe", "bag"])
    assert len(pipe(class_labels=["shoe"] * 2, batch_size=2).images) == 2


def test_packed_models_are_cast():
    import torch

    import hf_ganzip as gz

    from .conftest import run, tiny_generator, tiny_unet

    for model in (tiny_unet(), tiny_generator()):
        gz.quantize_(model)
        for cast in (
            lambda model: model.to(torch.bfloat16),
            lambda model: model.to("cpu", torch.float32),
            lambda model: model.half(),
        ):
            assert run(cast(model)).isfinite().all()
    pipe = gz.GANPipeline(model.to(torch.float32)).to(torch.bfloat16)
    assert len(pipe(batch_size=2).images) == 2


def test_an_adapter_of_a_packed_model_is_saved(tmp_path):
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    import hf_ganzip as gz

    blocks = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    unet = UNet2DConditionModel(
        **blocks, block_out_channels=[8], layers_per_block=1, norm_num_groups=4, attention_head_dim=4
    )
    gz.quantize_(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    unet.save_lora_adapter(tmp_path)
    unet.unload_lora()
    unet.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    unet.fuse_lora()
    unet.unfuse_lora()


# --- the command line


def test_quantize_takes_a_pipeline():
    from diffusers import DDPMPipeline, DDPMScheduler

    import hf_ganzip as gz

    from .conftest import tiny_unet

    pipe = DDPMPipeline(tiny_unet(), DDPMScheduler())
    report = gz.quantize_(pipe)
    assert list(report) == ["unet"] and pipe.unet.is_quantized and "smaller" in str(report)


def test_compress_keeps_a_pipeline_a_pipeline(call, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline

    from .conftest import tiny_unet

    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    assert call("compress", tmp_path / "pipe", tmp_path / "small", "--component", "unet", "--quiet")[:2] == (0, "")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert type(pipe) is DDPMPipeline and pipe.unet.is_quantized


def test_errors_name_what_was_typed(call, tmp_path):
    code, _, err = call(
        "compress", "stylegan2-fashion-mnist", tmp_path / "x", "--granularity", "group", "--group-size", 0
    )
    assert code == 1 and "--group-size is 0" in err and "group_size" not in err


def test_a_grid_is_no_text_file(call, tmp_path):
    code, _, err = call("sample", "stylegan2-fashion-mnist", tmp_path / "out.txt")
    assert code == 2 and ".png, .jpg, .jpeg, .webp" in " ".join(err.split()) and not list(tmp_path.glob("out*"))


def test_python_m(monkeypatch, capsys):
    import runpy

    import hf_ganzip as gz

    monkeypatch.setattr("sys.argv", ["hf_ganzip", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("hf_ganzip", run_name="__main__")
    assert capsys.readouterr().out.strip() == gz.__version__


def test_a_typo_without_a_connection_fails_at_once(call, monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    for arguments in (("info", "no-such/model"), ("evaluate", "no-such/images", "stylegan2-fashion-mnist")):
        code, _, err = call(*arguments)
        assert code == 1 and "no-such" in err and "no connection" in err


def test_a_pip_install_has_the_scripts_and_recipes(call, tmp_path):
    code, out, _ = call("train", "stylegan2", "--help")
    assert code == 0 and "--max_train_steps" in out
    arguments = ("--recipe", "small-and-quantized", "--quiet")
    assert call("compress", "stylegan2-fashion-mnist", tmp_path / "small", *arguments)[:2] == (0, "")


# --- evaluating


def _small_inception(source=None, device="cpu"):
    """In place of the network of FID, which is a download."""
    import torch.nn.functional as F

    def extract(images):
        return F.interpolate(images.float(), (2, 2), mode="bilinear", antialias=True).expand(-1, 3, -1, -1).flatten(1)

    extract.name, extract.dim, extract.digest, extract.resize = "inception_v3", 12, None, "bilinear to 2x2"
    return extract


def _photographs(folder, seed, count=30):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for i in range(count):
        width, height = random.integers(8, 40, 2)
        file = folder / f"album {i % 3}" / f"{i}.{('jpg', 'png', 'webp')[i % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return folder


def test_two_folders_of_photographs_of_many_sizes(call, tmp_path, monkeypatch):
    import json

    from hf_ganzip.evaluation.extractors import EXTRACTORS

    monkeypatch.setitem(EXTRACTORS, "inception_v3", _small_inception)
    real, generated = (_photographs(tmp_path / name, seed) for seed, name in enumerate(("real", "generated")))
    code, out, err = call("evaluate", real, generated, "--batch-size", 8, "--device", "cpu")
    assert code == 0 and "frechet_distance" in out and "inception_v3" in out and "30 sizes" in out, err
    assert "30/30" in err
    wanted = ("--metric", "FID", "--metric", "kid", "--metric", "precision")
    options = ("--option", "kid.subset_size=9", "--option", "knn.k=5", "--json", "--quiet")
    code, out, err = call("evaluate", real, generated, *wanted, *options)
    report = json.loads(out)
    assert code == 0 and err == "" and report["failures"] == {}
    assert list(report["metrics"]) == ["fid", "kid", "knn_precision_recall"]
    assert report["conditions"]["presets"]["kid"]["extractor"] == "inception_v3"
    assert report["conditions"]["metric_options"]["knn_precision_recall"] == {"k": 5}
    code, out, _ = call("evaluate", real, generated, "--resolution", 16, "--json", "--quiet")
    assert code == 0 and json.loads(out)["conditions"]["resolution"] == 16


def test_one_metric_that_fails_leaves_the_others(call, tmp_path, monkeypatch):
    import json

    from hf_ganzip.evaluation.extractors import EXTRACTORS

    monkeypatch.setitem(EXTRACTORS, "inception_v3", _small_inception)
    folders = [_photographs(tmp_path / str(i), i, count=9) for i in range(2)]
    code, out, _ = call("evaluate", *folders, "--quiet")  # 9 images, 12 features: nobody asked for this distance
    assert code == 0 and "frechet_distance: not computed: real has 9" in out and "recall" in out
    code, out, err = call("evaluate", *folders, "--metric", "fid", "--metric", "knn", "--json", "--quiet")
    report = json.loads(out)
    assert code == 1 and "not computed: fid" in err
    assert list(report["metrics"]) == ["knn_precision_recall"] and "of each are needed" in report["failures"]["fid"]
    code, out, err = call("evaluate", *folders, "--metric", "fid", "--quiet")
    assert code == 1 and out == "" and err.startswith("hf-ganzip: frechet_distance: real has 9")


def test_wrong_names_of_metrics_and_options_lead_to_the_right_ones(call, tmp_path):
    folder = _photographs(tmp_path / "real", 0, count=2)
    for arguments, message in {
        ("--metric", "fidd"): "Did you mean 'fid'?",
        ("--metric", "knn", "--option", "knn.kk=5"): "has the option knn.kk; allowed are knn_precision_recall: k.",
        ("--metric", "knn", "--option", "kn.k=5"): "Unknown metric 'kn'. Did you mean 'knn'?",
        ("--device", "gpu"): "device is 'gpu', which torch does not have here",
        ("--extractor", "vgg61"): "Did you mean 'vgg16'?",
        ("--extractor", "fashion_mnist", "--quiet"): "Use one for colour images: inception_v3",
    }.items():
        code, out, err = call("evaluate", folder, folder, *arguments)
        assert code == 1 and out == "" and message in err and err.count("\n") == 1


def test_the_inception_score_is_one_of_the_metrics(monkeypatch):
    import torch

    import hf_ganzip as gz
    from hf_ganzip.evaluation import extractors
    from hf_ganzip.metrics import inception_score

    def logits(source=None, device="cpu", *, logits):
        return lambda images: images.float().flatten(1)[:, :5]

    monkeypatch.setattr(extractors, "InceptionExtractor", logits)
    images = torch.randint(0, 256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    report = gz.evaluate(images, images, metrics="is", options={"splits": 2, "progress": False})
    assert report.metrics == {"inception_score": inception_score(images.float().flatten(1)[:, :5], splits=2)}
    features = images.float().flatten(1)[:, :5]
    report = gz.evaluate(features, features, metrics=["fid", "is"], options={"progress": False})
    assert report.failures == {"inception_score": "logits of images are needed; tensor holds features."}


def test_packed_models_sample_at_full_speed_and_are_given_back_as_they_were():
    import torch

    import hf_ganzip as gz
    from hf_ganzip.evaluation.sampling import sample_images
    from hf_ganzip.quantization.packed import computing, packed_modules

    from .conftest import tiny_generator

    model = tiny_generator()
    with computing(model, "dequantized"):  # no packed layer: nothing to do
        pass
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    gz.set_compute_(model, "packed")
    layers = list(packed_modules(model).values())
    layers[0].packed_compute = "dequantized"
    seen = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append({layer.packed_compute for layer in layers}))
    sample_images(model, 3, batch_size=2, progress=False)
    gz.evaluate(
        model,
        torch.zeros(4, 12),
        metrics="knn",
        num_samples=4,
        extractor=_small_inception(),
        options={"progress": False, "k": 1},
    )
    hook.remove()
    assert seen and all(modes == {"dequantized"} for modes in seen)
    assert [layer.packed_compute for layer in layers] == ["dequantized"] + ["packed"] * (len(layers) - 1)
    assert all(layer._dequantized is None for layer in layers[1:])


def test_packed_models_translate_at_full_speed(tmp_path):
    import torch

    import hf_ganzip as gz
    from hf_ganzip.quantization.packed import packed_modules

    from .conftest import tiny_ugatit

    model = tiny_ugatit()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    gz.set_compute_(model, "packed")
    layers, seen = list(packed_modules(model).values()), []
    model.register_forward_pre_hook(lambda *_: seen.append({layer.packed_compute for layer in layers}))
    gz.ImageTranslationPipeline(model)(torch.rand(3, 3, 16, 16), max_batch_size=2, output_type="latent")
    assert seen == [{"dequantized"}] * 2
    assert all(layer.packed_compute == "packed" and layer._dequantized is None for layer in layers)


# --- training and fine-tuning


def run_example(name, *flags):
    """``python examples/NAME.py FLAGS`` in this process."""
    import runpy

    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / f"{name}.py"))
        script["main"](script["parse_args"]([str(flag) for flag in flags]))
    finally:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()


def test_a_short_run_does_not_save_its_start(tmp_path, monkeypatch, caplog):
    from safetensors.torch import load_file

    import hf_ganzip as gz

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def moved(*flags):
        """How far the saved weights are from those before training, of the way that the trained weights have gone."""
        folder = tmp_path / str(len(flags))
        run_example("finetune_stylegan2", "--smoke", "--output_dir", folder, *flags)
        start, saved = (gz.load_model(folder / name).state_dict() for name in ("start", "generator"))
        trained = load_file(folder / "checkpoint-4" / "model.safetensors")
        name = "synthesis.b16.conv1.weight"
        return float((saved[name] - start[name]).norm() / (trained[f"generator.{name}"] - start[name]).norm())

    assert moved() > 0.9 and not caplog.messages
    assert moved("--preset", "svs-stylegan2-base") < 0.01  # the paper's, for 15 million images
    assert "will be 100 % starting point after the 32 images" in caplog.text and "ema_rampup" in caplog.text
    assert {path.name for path in (tmp_path / "0" / "samples").iterdir()} >= {
        "step-0000004-average.png",
        "step-0000004-trained.png",
    }


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "all"])
def test_a_tracker_that_is_not_installed_is_refused_at_the_start(monkeypatch, capsys, tmp_path, name):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(SystemExit):
        run_example("train_stylegan2", "--smoke", "--output_dir", tmp_path / "out", "--report_to", name)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "installed; pip install" in said and ("wandb" if name == "wandb" else '"hf_ganzip[track]"') in said
    assert not (tmp_path / "out").exists()


EXAMPLES = sorted(path.stem for path in (Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_explains_every_flag_and_shows_its_default(name, monkeypatch):
    import argparse
    import runpy
    import sys

    found = []

    def parse_args(self, *_):
        found.append(self)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    folder = Path(__file__).parents[1] / "examples"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    with pytest.raises(SystemExit):
        runpy.run_path(str(folder / f"{name}.py"))["parse_args"]([])
    formatter = found[0]._get_formatter()
    texts = {action.dest: formatter._expand_help(action) if action.help else "" for action in found[0]._actions[1:]}
    required = {action.dest for action in found[0]._actions if action.required}
    assert len(texts) > 2 and all(texts.values()), texts
    assert not [dest for dest, text in texts.items() if "default: " not in text and dest not in required]


def test_a_pruned_model_finds_its_teacher_in_its_record(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import hf_ganzip as gz
    from hf_ganzip.scripts import finetuning

    monkeypatch.setattr(finetuning, "make_accelerator", lambda *_, **__: SimpleNamespace())

    def teacher(name):
        args = SimpleNamespace(output_dir=str(tmp_path / "out"), smoke=False, teacher=None, recipe=None, revision=None)
        args.pretrained_model_name_or_path = str(name)
        run = finetuning.Finetuning(args, "x", None)
        return run.teacher(gz.load_model(name))

    model = gz.load_model("stylegan2-fashion-mnist")
    full = model.num_parameters()
    with pytest.raises(
        ValueError, match="does not learn from itself, and .* is not pruned: give --recipe or --teacher"
    ):
        model.save_pretrained(tmp_path / "full")
        teacher(tmp_path / "full")
    pruning = gz.PruneConfig("magnitude", 0.5, criterion_options={"samples": 4})
    gz.prune_(model, pruning)
    model.save_pretrained(tmp_path / "pruned")
    assert teacher(tmp_path / "pruned").num_parameters() == full  # the bundled one
    model = gz.load_model(tmp_path / "full")
    gz.prune_(model, pruning)
    model.save_pretrained(tmp_path / "pruned-2")
    assert teacher(tmp_path / "pruned-2").num_parameters() == full  # the folder beside it
    (tmp_path / "full").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="was pruned from 'full', which is no other folder .* give --teacher"):
        teacher(tmp_path / "pruned-2")


def test_a_missing_lpips_falls_back_with_a_message(monkeypatch, capsys):
    import runpy
    import sys
    from types import SimpleNamespace

    import hf_ganzip as gz

    monkeypatch.setitem(sys.modules, "lpips", None)
    script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "finetune_stylegan2.py"))
    run = SimpleNamespace(accelerator=SimpleNamespace(print=print, device="cpu"))
    for channels, found in ((1, "features"), (3, "none")):
        args = script["parse_args"](["--output_dir", "x", "--smoke"])
        generator = gz.StyleGAN2Generator(resolution=32, z_dim=4, w_dim=4, channels=(4,) * 4, image_channels=channels)
        distance = script["perceptual_distance"](args, run, generator)
        assert (args.perceptual, distance is None) == (found, found == "none")
        assert (args.perceptual_weight == 0) == (found == "none")
        said = capsys.readouterr().out
        assert "pip install 'hf_ganzip[perceptual]'" in said and f"Going on with --perceptual {found}" in said


def test_a_token_for_the_hub_is_used_and_told_to_no_tracker(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from hf_ganzip.scripts import finetuning, shared

    told, pushed = [], []
    accelerator = SimpleNamespace(init_trackers=lambda name, options: told.append(options))
    monkeypatch.setattr(shared, "Accelerator", lambda **_: accelerator)
    monkeypatch.setattr(finetuning, "push_to_hub", lambda *_, **options: pushed.append(options["token"]))
    args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None, report_to="x", seed=0)
    args.hub_token, args.hub_model_id, args.dataset_name = "secret", "me/model", None
    finetuning.Finetuning(args, "x", None).publish(None)
    assert pushed == ["secret"] and told[0]["seed"] == 0 and "secret" not in str(told)


# --- slips


def test_slips_lead_to_what_was_meant():
    import torch

    import hf_ganzip as gz

    from .conftest import tiny_generator

    with pytest.raises(AttributeError, match="no attribute 'quantize'. Did you mean 'quantize_'?"):
        gz.quantize  # noqa: B018
    for verb in (gz.quantize_, gz.prune_, gz.refine_, gz.sensitivity):
        with pytest.raises(
            TypeError, match=r"'small' is a name; allowed are a model and a pipeline: load_model\('small'\)"
        ):
            verb("small")
    with pytest.raises(TypeError, match=r"generator is 0; allowed is a source: torch.Generator\(\).manual_seed\(0\)"):
        gz.GANPipeline(tiny_generator())(generator=0)
    bundled = gz.GANPipeline.from_pretrained("stylegan2-fashion-mnist")
    named, numbered = (
        bundled(class_labels=label, generator=torch.Generator().manual_seed(0), output_type="latent").images
        for label in ("bag", 8)
    )
    assert torch.equal(named, numbered)


def test_training_images_that_are_not_here_are_no_matter_of_the_hub(tmp_path):
    flags = ("--train_data_dir", tmp_path / "nothere", "--output_dir", tmp_path / "run", "--max_train_steps", 1)
    with pytest.raises(FileNotFoundError, match="--train_data_dir is .*nothere; there is no such folder"):
        run_example("train_ddpm", *flags)


def test_quiet_is_quiet_and_one_image_is_one(call, tmp_path):
    """Nothing but errors on standard error, nothing on standard output."""
    bundled, real = "stylegan2-fashion-mnist", "fashion-mnist-test-5000"
    flags = ("--method", "auto", "--bits", "4", "--num-samples", "130", "--draws", "1")
    code, out, err = call("study", bundled, "--reference", real, "--output-dir", tmp_path / "study", *flags, "-q")
    assert (code, out, err) == (0, "", "")
    code, _, err = call("evaluate", real, bundled, "--num-samples", "150", "--metric", "knn", "-q")
    assert (code, err) == (0, "")
    assert "1 image written to" in call("sample", bundled, tmp_path / "one.png", "--num-samples", "1")[1]


# --- reports and pictures


class TestReports:
    def test_a_bare_quantize_shows_three_lines_and_print_the_table(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.quantize_(tiny_generator(), gz.QuantizeConfig("linear", bits=4))
        assert len(repr(report).splitlines()) <= 3 and len(repr(report)) < 400
        assert "weights quantized" in repr(report) and "bits per weight" in repr(report)
        assert all(layer.name in str(report) for layer in report.layers)

    def test_a_notebook_shows_a_short_table_with_the_layers_folded(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.prune_(tiny_generator(), gz.PruneConfig(ratio=0.5))
        head, folded = report._repr_html_().split("<details>")
        assert "parameters" in head and "synthesis" not in head
        assert folded.count("<tr>") == len(report.sets) + 1 and report.sets[0].name in folded
        assert report.to_pandas()["after"].tolist() == [each.after for each in report.sets]

    def test_the_report_of_a_pipeline_shows_its_components(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.quantize_(gz.GANPipeline(tiny_generator()))
        assert len(repr(report).splitlines()) <= 3
        assert f"generator {report['generator'].bytes_before:,} ->" in repr(report)
        assert "generator: weights" in report._repr_html_()
        layers = [layer.name for layer in report["generator"].layers]
        assert report.to_pandas()[["component", "name"]].values.tolist() == [["generator", name] for name in layers]


def test_a_grid_of_samples_is_readable_and_its_rows_have_names(tmp_path):
    from PIL import Image
    from typer.testing import CliRunner

    from hf_ganzip.cli import app

    output = tmp_path / "grid.png"
    done = CliRunner().invoke(app, ["sample", "stylegan2-fashion-mnist", str(output), "--num-samples", "20"])
    assert done.exit_code == 0, done.output
    with Image.open(output) as grid:
        assert grid.height >= 10 * 96 and grid.width > 2 * 96 + 50  # ten classes, two of each, beside their names
