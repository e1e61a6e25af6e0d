# SPDX-License-Identifier: Apache-2.0
"""The examples that train from scratch, as users run them."""

import json

import numpy
import pytest
from PIL import Image

from hf_ganzip import models

from .conftest import checkpoints, defined_by, launch


@pytest.mark.process
def test_biggan_with_twin_classifiers_validation_figures_and_their_curves(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--tac", "--validation_data", "fashion-mnist-test-5000")
    result = launch("train_biggan", *flags)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert models.BigGANGenerator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert models.BigGANDiscriminator.from_pretrained(tmp_path / "discriminator").config.head == "tac"
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["step"] for row in report["figures"]] == [2, 4]
    assert {"average_frechet_distance", "trained_lsh_recall"} <= set(report["figures"][0])
    assert report["options"]["loss"] == "hinge"
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.process
def test_biggan_with_feature_quantization_resumes(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--fq", "blocks.1.0", "blocks.2.0", "--fq_codes", 8)
    flags += ("--fq_share", 0.5, "--diffaugment", "color,translation,cutout", "--standing_statistics", 2)
    launch("train_biggan", *flags)
    discriminator = models.BigGANDiscriminator.from_pretrained(tmp_path / "discriminator")
    codebook = discriminator.codebooks["blocks/1/0"]
    assert int(codebook.num_updates) == 4 * 2  # steps, with two of the discriminator each
    assert codebook.share == 0.5 and discriminator.config.head == "projection"
    assert "codebooks" not in "".join(models.BigGANGenerator.from_pretrained(tmp_path / "generator").state_dict())
    assert '"quantization"' in (tmp_path / "log.jsonl").read_text()
    launch("train_biggan", *flags, "--resume_from_checkpoint", "latest")


@pytest.mark.process
def test_stylegan2_and_resuming(tmp_path):
    result = launch("train_stylegan2", "--smoke", "--output_dir", tmp_path)
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert models.StyleGAN2Generator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert models.StyleGAN2Discriminator.from_pretrained(tmp_path / "discriminator").config.resolution == 32
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    weights = tmp_path / "generator" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    flags = ("--resume_from_checkpoint", "latest")  # has nothing left to do
    launch("train_stylegan2", "--smoke", "--output_dir", tmp_path, *flags)
    assert weights.read_bytes() == before


@pytest.mark.process
def test_stylegan2_on_a_folder_of_images(tmp_path, folder):
    sizes = ["--resolution", 8, "--generator_channels", 4, 4, "--discriminator_channels", 4, 4]
    batches = ["--train_batch_size", 8, "--mbstd_group_size", 4, "--class_group_size", 4, "--max_train_steps", 2]
    flags = ("--train_data_dir", folder, "--output_dir", tmp_path / "out", "--z_dim", 8, "--w_dim", 8)
    launch("train_stylegan2", *flags, *sizes, *batches)
    config = models.StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config
    assert (config.resolution, config.num_classes, config.image_channels) == (8, 2, 1)


@pytest.mark.process
def test_ugatit_with_feature_quantization_resumes(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--fq")
    result = launch("train_ugatit", *flags)
    assert "6 and 6 images; generators" in result.stdout
    for name in ("a_to_b", "b_to_a"):
        assert "codebooks" not in "".join(
            models.UGATITGenerator.from_pretrained(tmp_path / f"generator_{name}").state_dict()
        )
    discriminator = models.UGATITDiscriminator.from_pretrained(tmp_path / "discriminator_global_a")
    assert int(discriminator.codebooks["model/5"].num_updates) > 0
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    launch("train_ugatit", *flags, "--resume_from_checkpoint", "latest")


def test_ugatit_enlarges_images_of_the_training_size_without_borders(tmp_path):
    (tmp_path / "trainA").mkdir()
    Image.fromarray(numpy.full((64, 64, 3), 200, dtype="uint8")).save(tmp_path / "trainA" / "a.png")
    script = defined_by("train_ugatit")
    flags = ["--output_dir", "x", "--train_data_dir", str(tmp_path), "--resolution", "64"]
    found = script["images"](script["parse_args"](flags), "A")
    assert found.shape == (1, 3, 72, 72) and int(found.min()) == int(found.max()) == 200
    assert script["images"](script["parse_args"]([*flags, "--no_augment"]), "A").shape == (1, 3, 64, 64)
