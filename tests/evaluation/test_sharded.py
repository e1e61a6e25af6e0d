# SPDX-License-Identifier: Apache-2.0
"""The features do not depend on how many processes extract them."""

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_ganzip.evaluation import extract_features
from hf_ganzip.evaluation.sharded import extract_features_sharded, sample_features_sharded
from hf_ganzip.evaluation.sources import open_source

from ..conftest import tiny_generator, tiny_unet
from ..processes import run_processes, run_script


pytestmark = pytest.mark.process


EXAMPLE = Path(__file__).parents[2] / "examples" / "extract_features.py"


def images(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)


def extract(rank, count):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == count
    options = {"accelerator": accelerator, "batch_size": 8, "progress": False}
    return [extract_features_sharded(images(number), "fashion_mnist", **options) for number in NUMBERS]


NUMBERS = (50, 3)  # not divisible; fewer batches than processes


def test_any_number_of_processes_gives_the_same_bits(tmp_path):
    found = in_processes(extract, tmp_path)
    for number, expected, *others in zip(NUMBERS, *found):
        assert expected.shape == (number, 128)
        assert all(torch.equal(features, expected) for features in others)
        torch.testing.assert_close(expected, extract_features(images(number), progress=False), rtol=1e-4, atol=1e-5)


def in_processes(function, tmp_path):
    """What one process returns, and each of three; all with one thread: kernels round differently with more."""
    found = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        found += run_processes(function, count, folder)
    return found


def sample(rank, count):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")
    torch.manual_seed(0)
    models = {"gan": tiny_generator(), "diffusion": tiny_unet(num_class_embeds=3)}
    accelerator = Accelerator(cpu=True)
    options = {"seed": 7, "first": 5, "batch_size": 4, "steps": 2, "progress": False}
    return {
        kind: sample_features_sharded(model, 14, mean_colours, accelerator, **options)
        for kind, model in models.items()
    }


def mean_colours(images):
    return images.float().mean(dim=3).flatten(1)


def test_samples_of_any_number_of_processes_are_the_same(tmp_path):
    first, *others = in_processes(sample, tmp_path)
    for kind, expected in first.items():
        assert len(expected) == 14 and len(expected.unique(dim=0)) == 14
        assert all(torch.equal(found[kind], expected) for found in others)


def test_the_example_samples_a_model_and_resumes(tmp_path):
    tiny_generator(image_channels=1).save_pretrained(tmp_path / "model")
    flags = ("--model", tmp_path / "model", "--num_samples", 10, "--chunk", 4, "--batch_size", 2)
    found = []
    for name in ("first", "second"):
        output = tmp_path / f"{name}.safetensors"
        result = run_script(EXAMPLE, *flags, "--cache_dir", tmp_path / "cache", "--output", output)
        found.append(open_source(output).features)
        if name == "first":
            assert "sample:" in result.stderr and len(list((tmp_path / "cache").iterdir())) == 3
    assert "sample:" not in result.stderr and torch.equal(*found) and found[0].shape == (10, 128)


def test_the_example_writes_a_file_that_evaluate_opens_and_resumes(tmp_path):
    for name in ("first", "second"):
        output = tmp_path / f"{name}.safetensors"
        result = run_script(EXAMPLE, "--smoke", "--cache_dir", tmp_path / "cache", "--output", output)
        assert "(600, 128) features of fashion-mnist-test-5000 by fashion_mnist" in result.stdout
    assert "image" in run_script(EXAMPLE, "--help").stdout
    first, second = (open_source(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert torch.equal(first.features, second.features) and len(first.extractor_digest) == 64
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert "features:" not in result.stderr  # the second run found every chunk
