# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import pytest

from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator

from .conftest import launch


pytestmark = pytest.mark.process


def test_smoke_run_and_resuming(tmp_path):
    result = launch("train_stylegan2", "--smoke", "--output_dir", tmp_path)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert StyleGAN2Generator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert StyleGAN2Discriminator.from_pretrained(tmp_path / "discriminator").config.resolution == 32
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    before = (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()
    launch(
        "train_stylegan2", "--smoke", "--output_dir", tmp_path, "--resume_from_checkpoint", "latest"
    )  # has nothing left to do
    assert (tmp_path / "generator" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_training_on_a_folder_of_images(tmp_path, folder):
    sizes = ["--resolution", 8, "--generator_channels", 4, 4, "--discriminator_channels", 4, 4]
    batches = ["--train_batch_size", 8, "--mbstd_group_size", 4, "--class_group_size", 4, "--max_train_steps", 2]
    flags = ("--train_data_dir", folder, "--output_dir", tmp_path / "out", "--z_dim", 8, "--w_dim", 8)
    launch("train_stylegan2", *flags, *sizes, *batches)
    config = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config
    assert (config.resolution, config.num_classes, config.image_channels) == (8, 2, 1)
