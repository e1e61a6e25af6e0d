# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning examples as users run them."""

import json
from types import SimpleNamespace

import pytest
from diffusers import DDPMPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.scripts import finetuning
from hf_ganzip.scripts.finetuning import Finetuning, hub_datasets
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig

from ..hub import LocalHub
from .conftest import checkpoints, defined_by, launch


RECIPE = """
- step: prune
  criterion: magnitude
  criterion_options: {samples: 4}
  ratio: 0.5
- step: refine
  progress: false
"""


@pytest.mark.process
@pytest.mark.parametrize("name, cls", [("stylegan2", gz.StyleGAN2Generator), ("stylegan3", gz.StyleGAN3Generator)])
def test_gans(tmp_path, name, cls):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    script, out = f"finetune_{name}", tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--recipe", tmp_path / "recipe.yaml")
    result = launch(script, *flags)
    assert "64 images; student" in result.stdout
    model = cls.from_pretrained(out / "generator")
    assert [step["name"] for step in recorded_steps(model)] == ["prune", "refine", "finetune"]
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-4"]
    options = recorded_steps(model)[-1]["options"]
    assert {"loss_d", "output_dir", "resume_from_checkpoint", "checkpointing_steps"}.isdisjoint(options)
    assert {"r1_gamma", "rgb_weight", "seed", "preset", "gradient_accumulation_steps"} <= options.keys()
    assert all((out / name).is_file() for name in ("discriminator/config.json", "samples/step-0000004-average.png"))
    if name == "stylegan2":  # the same main function
        launch(script, *flags, "--resume_from_checkpoint", "latest")


@pytest.mark.process
def test_ddpm(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("  criterion_options: {samples: 4}\n", ""))
    out = tmp_path / "out"
    launch("finetune_ddpm", "--smoke", "--output_dir", out, "--recipe", tmp_path / "recipe.yaml")
    model = UNet2DModel.from_pretrained(out / "unet")
    assert [step["name"] for step in recorded_steps(model)] == ["prune", "refine", "finetune"]
    assert DDPMPipeline.from_pretrained(out / "pipeline").unet.num_parameters() == model.num_parameters()
    assert json.loads((out / "report.json").read_text())["options"]["dropout"] == 0.1


@pytest.mark.process
def test_ddpm_from_scratch_and_push_to_hub(tmp_path):
    out = tmp_path / "tiny-ddpm"
    with LocalHub() as hub:
        environment = hub.environment(tmp_path / "cache")
        launch("train_ddpm", "--smoke", "--output_dir", out, "--push_to_hub", environment=environment)
        files = hub.repositories["me/tiny-ddpm"].files
    assert {"README.md", "config.json", "diffusion_pytorch_model.safetensors", "samples.png"} == set(files)
    assert "step: train" in files["README.md"].decode()
    assert (out / "samples" / "step-0000004-average.png").is_file()
    model = UNet2DModel.from_pretrained(out / "unet")
    assert [step["name"] for step in recorded_steps(model)] == ["train"]
    assert recorded_steps(model)[0]["options"]["ema_rampup"] == 0.077
    again = launch("train_ddpm", "--smoke", "--output_dir", out, check=False)
    assert again.returncode and "holds a run already" in again.stderr


def parse(name, *flags):
    return defined_by(name)["parse_args"](["--output_dir", "x", *flags])


GIVEN = ("--dataset_name", "org/images", "--pretrained_model_name_or_path", "org/model")


@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("finetune_stylegan2", (*GIVEN, "--max_train_steps", "9", "--num_train_epochs", "2"), "not allowed with"),
        ("finetune_ddpm", (*GIVEN, "--teacher", "org/full"), "--teacher teaches nothing"),
        ("finetune_ddpm", (*GIVEN, "--teacher", "x", "--distillation_weight", "0"), "--teacher teaches nothing"),
        ("finetune_ddpm", GIVEN[:2], "give --pretrained_model_name_or_path"),
        ("train_ddpm", GIVEN, "starts from nothing"),
        ("train_ddpm", (), "give one of --dataset_name and --train_data_dir"),
        ("train_stylegan2", (), "give one of --dataset_name and --train_data_dir"),
        ("train_feature_network", (), "give one of --dataset_name and --train_data_dir"),
    ],
)
def test_flags_that_do_not_fit(capsys, name, flags, message):
    with pytest.raises(SystemExit):
        parse(name, *flags)
    assert message in capsys.readouterr().err


def made(monkeypatch, args, processes=1):
    monkeypatch.setattr(finetuning, "make_accelerator", lambda *_, **__: SimpleNamespace(num_processes=processes))
    return Finetuning(args, "x", None)


def test_the_batch_of_a_preset_is_shared_out(monkeypatch):
    args = parse("finetune_ddpm", *GIVEN, "--gradient_accumulation_steps", "2")
    preset = {"train_batch_size": 96, "dropout": 0.1}
    config = made(monkeypatch, args, 4).config(DiffusionTrainingConfig, preset)
    assert (config.train_batch_size, config.dropout, config.checkpointing_steps) == (12, 0.1, 5000)
    with pytest.raises(ValueError, match="batch of 96 cannot be shared out over 5 processes"):
        made(monkeypatch, args, 5).config(DiffusionTrainingConfig, preset)
    args = parse("finetune_ddpm", *GIVEN, "--train_batch_size", "7")
    assert made(monkeypatch, args, 5).config(DiffusionTrainingConfig, preset).train_batch_size == 7


def test_the_revision_is_that_of_the_model_and_not_of_the_teacher(monkeypatch):
    loaded = []
    monkeypatch.setattr(finetuning, "load_model", lambda name, revision=None: loaded.append((name, revision)))
    run = made(monkeypatch, parse("finetune_ddpm", *GIVEN, "--revision", "v1"))
    for source in (None, "org/model", "org/full"):
        run.full_model(source)
    assert loaded == [("org/model", "v1"), ("org/model", "v1"), ("org/full", None)]


def test_only_hub_ids_become_data_sets_of_a_card(tmp_path):
    assert hub_datasets("org/images") == ["org/images"]
    assert hub_datasets(str(tmp_path)) == hub_datasets("my/train.parquet") == hub_datasets(None) == []
