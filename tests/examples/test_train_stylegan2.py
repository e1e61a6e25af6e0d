# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import pytest

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator

from .conftest import ACCELERATE, ROOT, launch


pytestmark = pytest.mark.process


SCRIPT = ROOT / "examples" / "train_stylegan2.py"


def test_smoke_run_and_resuming(tmp_path):
    result = launch(SCRIPT, "--smoke", "--output_dir", tmp_path, launcher=ACCELERATE)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert StyleGAN2Generator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert StyleGAN2Discriminator.from_pretrained(tmp_path / "discriminator").config.resolution == 32
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    before = (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()
    launch(SCRIPT, "--smoke", "--output_dir", tmp_path, "--resume_from_checkpoint", "latest")  # has nothing left to do
    assert (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_training_on_a_folder_of_images(tmp_path, folder):
    sizes = ["--resolution", 8, "--generator_channels", 4, 4, "--discriminator_channels", 4, 4]
    batches = ["--train_batch_size", 8, "--mbstd_group_size", 4, "--class_group_size", 4, "--max_train_steps", 2]
    flags = ("--train_data_dir", folder, "--output_dir", tmp_path / "out", "--z_dim", 8, "--w_dim", 8)
    launch(SCRIPT, *flags, *sizes, *batches)
    config = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config
    assert (config.resolution, config.num_classes, config.image_channels) == (8, 2, 1)


@pytest.mark.parametrize("name", ["train_stylegan2", "train_feature_network", "prepare_fashion_mnist"])
def test_help_explains(name):
    result = launch(SCRIPT.with_name(f"{name}.py"), "--help")
    assert "usage:" in result.stdout and len(result.stdout.splitlines()) > 10


def test_data_must_be_given(tmp_path):
    result = launch(SCRIPT, "--output_dir", tmp_path, check=False)
    assert result.returncode and "give one of --dataset_name and --train_data_dir" in result.stderr


def test_a_folder_without_test_images_gives_no_test_accuracy(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    flags = ("--train_data_dir", tmp_path / "images", "--output_dir", tmp_path / "out")
    result = launch(SCRIPT.with_name("train_feature_network.py"), *flags, check=False)
    assert result.returncode and "has no test images; allowed are" in result.stderr


def test_feature_network_smoke_run(tmp_path):
    launch(SCRIPT.with_name("train_feature_network.py"), "--smoke", "--output_dir", tmp_path)
    assert list(tmp_path.rglob("config.json"))
