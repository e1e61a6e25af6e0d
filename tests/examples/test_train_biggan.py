# SPDX-License-Identifier: Apache-2.0
"""The example as users run it."""

import json

import pytest

from hf_ganzip.models import BigGANDiscriminator, BigGANGenerator

from .conftest import launch


pytestmark = pytest.mark.process


def test_twin_classifiers_validation_figures_and_their_curves(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--tac", "--validation_data", "fashion-mnist-test-5000")
    result = launch("train_biggan", *flags, "--validation_metrics", "lsh_precision_recall")
    assert "64 images (1, 32, 32), 2 classes; generator" in result.stdout
    assert BigGANGenerator.from_pretrained(tmp_path / "generator").config.num_classes == 2
    assert BigGANDiscriminator.from_pretrained(tmp_path / "discriminator").config.head == "tac"
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["step"] for row in report["figures"]] == [2, 4]
    assert {"average_lsh_precision", "trained_lsh_recall"} <= set(report["figures"][0])
    assert report["options"]["loss"] == "hinge"
    assert (tmp_path / "curves.png").is_file()


def test_smoke_run_with_feature_quantization_resumes(tmp_path):
    flags = ("--smoke", "--output_dir", tmp_path, "--fq", "blocks.1.0", "blocks.2.0", "--fq_codes", 8)
    flags += ("--fq_share", 0.5, "--diffaugment", "color,translation,cutout", "--standing_statistics", 2)
    launch("train_biggan", *flags)
    discriminator = BigGANDiscriminator.from_pretrained(tmp_path / "discriminator")
    codebook = discriminator.codebooks["blocks/1/0"]
    assert int(codebook.num_updates) == 4 * 2  # steps, with two of the discriminator each
    assert codebook.share == 0.5 and discriminator.config.head == "projection"
    assert "codebooks" not in "".join(BigGANGenerator.from_pretrained(tmp_path / "generator").state_dict())
    assert '"quantization"' in (tmp_path / "log.jsonl").read_text()
    launch("train_biggan", *flags, "--resume_from_checkpoint", "latest")
