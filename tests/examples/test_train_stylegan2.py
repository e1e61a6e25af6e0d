# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator

from ..processes import run_script


pytestmark = pytest.mark.process


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_stylegan2.py"
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")


def launch(*arguments, script=SCRIPT, check=True, environment=None, launcher=()):
    """A script in a process of its own, in a fresh one with other variables or with ``launcher=ACCELERATE``, as ``accelerate launch`` runs it."""
    if environment is None and not launcher:
        return run_script(script, *arguments, check=check)
    command = [sys.executable, *launcher]
    environment = (environment or os.environ) | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert not check or result.returncode == 0, result.stderr
    return result


def test_smoke_run_and_resuming(tmp_path):
    result = launch("--smoke", "--output_dir", tmp_path, launcher=ACCELERATE)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert StyleGAN2Generator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert StyleGAN2Discriminator.from_pretrained(tmp_path / "discriminator").config.resolution == 32
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    before = (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()
    launch("--smoke", "--output_dir", tmp_path, "--resume_from_checkpoint", "latest")  # has nothing left to do
    assert (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_training_on_a_folder_of_images(tmp_path):
    random = np.random.default_rng(0)
    for label in ("bags", "shoes"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                tmp_path / "images" / label / f"{i}.png"
            )
    sizes = [
        "--resolution",
        8,
        "--generator_channels",
        4,
        4,
        "--discriminator_channels",
        4,
        4,
        "--z_dim",
        8,
        "--w_dim",
        8,
    ]
    batches = ["--train_batch_size", 8, "--mbstd_group_size", 4, "--class_group_size", 4, "--max_train_steps", 2]
    launch("--train_data_dir", tmp_path / "images", "--output_dir", tmp_path / "out", *sizes, *batches)
    config = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config
    assert (config.resolution, config.num_classes, config.image_channels) == (8, 2, 1)


@pytest.mark.parametrize("name", ["train_stylegan2", "train_feature_network", "prepare_fashion_mnist"])
def test_help_explains(name):
    result = run_script(SCRIPT.with_name(f"{name}.py"), "--help")
    assert "usage:" in result.stdout and len(result.stdout.splitlines()) > 10


def test_data_must_be_given(tmp_path):
    result = launch("--output_dir", tmp_path, check=False)
    assert result.returncode and "give one of --dataset_name and --train_data_dir" in result.stderr


def test_a_folder_without_test_images_gives_no_test_accuracy(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    flags = ("--train_data_dir", tmp_path / "images", "--output_dir", tmp_path / "out")
    result = launch(*flags, script=SCRIPT.with_name("train_feature_network.py"), check=False)
    assert result.returncode and "has no test images; allowed are" in result.stderr


def test_feature_network_smoke_run(tmp_path):
    launch("--smoke", "--output_dir", tmp_path, script=SCRIPT.with_name("train_feature_network.py"))
    assert list(tmp_path.rglob("config.json"))
