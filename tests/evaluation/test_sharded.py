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


NUMBERS = (50, 3)  # not divisible; fewer batches than processes


def mean_colours(images):
    return images.float().mean(dim=3).flatten(1)


def features_and_samples(rank, count):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == count
    options = {"accelerator": accelerator, "batch_size": 8, "progress": False}
    found = [extract_features_sharded(images(number), "fashion_mnist", **options) for number in NUMBERS]
    torch.manual_seed(0)
    options |= {"seed": 7, "first": 5, "batch_size": 4, "steps": 2}
    models = tiny_generator(), tiny_unet(num_class_embeds=3)
    return found + [sample_features_sharded(model, 14, mean_colours, **options) for model in models]


def test_any_number_of_processes_gives_the_same_bits(tmp_path):
    found = []
    for count in (1, 3):  # all with one thread: kernels round differently with more
        folder = tmp_path / str(count)
        folder.mkdir()
        found += run_processes(features_and_samples, count, folder)
    for expected, *others in zip(*found):
        assert all(torch.equal(features, expected) for features in others)
    for number, features in zip(NUMBERS, found[0]):
        assert features.shape == (number, 128)
        torch.testing.assert_close(features, extract_features(images(number), progress=False), rtol=1e-4, atol=1e-5)
    for samples in found[0][2:]:
        assert len(samples) == len(samples.unique(dim=0)) == 14


@pytest.mark.parametrize("of", ["model", "images"])
def test_the_example_writes_a_file_that_evaluate_opens_and_resumes(tmp_path, of):
    flags, bar, shape = ("--smoke",), "features:", (600, 128)
    if of == "model":
        tiny_generator(image_channels=1).save_pretrained(tmp_path / "model")
        flags = ("--model", tmp_path / "model", "--num_samples", 10, "--chunk", 4, "--batch_size", 2)
        bar, shape = "sample:", (10, 128)
    sources = []
    for resumed in (False, True):
        output = tmp_path / f"{resumed}.safetensors"
        result = run_script(EXAMPLE, *flags, "--cache_dir", tmp_path / "cache", "--output", output)
        assert (bar not in result.stderr) == resumed  # the second run found every chunk
        assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
        sources.append(open_source(output))
    first, second = sources
    assert torch.equal(first.features, second.features) and first.features.shape == shape
    if of == "images":
        assert "(600, 128) features of fashion-mnist-test-5000 by fashion_mnist" in result.stdout
        assert len(first.extractor_digest) == 64 and "image" in run_script(EXAMPLE, "--help").stdout
