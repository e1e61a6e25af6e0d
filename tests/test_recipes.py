# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

import hf_ganzip as gz
from hf_ganzip.core.record import machine
from hf_ganzip.images import to_model_range
from hf_ganzip.pruning import PruneConfig
from hf_ganzip.quantization.report import LayerReport, QuantizeReport
from hf_ganzip.recipes import with_images

from .conftest import run, tiny_generator, tiny_unet


def test_compress_runs_a_recipe(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "full")
    model, (report,) = gz.compress(tmp_path / "full", [{"step": "quantize", "method": "linear", "bits": 4}])
    assert isinstance(model, UNet2DModel) and report.quantized
    model.save_pretrained(tmp_path / "packed")
    assert torch.equal(run(gz.load_model(tmp_path / "packed")), run(model))


@pytest.mark.parametrize(
    "recipe, message",
    [
        ([], "the recipe has no steps"),
        ([{"step": "quantise"}], "Unknown step 'quantise'. Did you mean 'quantize'"),
        ([{"bits": 4}], "Unknown step ''"),
        ([{"step": "quantize", "bits": 99}], "allowed are integers from 2 to 8"),
    ],
)
def test_wrong_recipes_change_nothing(recipe, message):
    model = tiny_generator()
    before = run(model)
    with pytest.raises(ValueError, match=message):
        gz.compress(model, recipe)
    assert torch.equal(run(model), before)


def test_images_of_a_criterion_are_opened_by_name(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (9, 1, 12, 12), dtype="uint8"))
    options = {"images": str(tmp_path / "images.npy"), "num_images": 5, "timesteps": 2, "progress": False}
    step = {"step": "prune", "criterion": "diff_prune", "ratio": 0.5, "criterion_options": options}
    model, (report,) = gz.compress(tiny_unet(), [step])
    assert report.parameters_after < report.parameters_before
    with pytest.raises(FileNotFoundError):
        gz.compress(tiny_unet(), [step | {"criterion_options": options | {"images": str(tmp_path / "none.npy")}}])
    np.save(tmp_path / "images.npy", np.zeros((9, 4), dtype="float32"))
    with pytest.raises(ValueError, match="holds no images"):
        gz.compress(tiny_unet(), [step])


def test_images_get_the_size_of_the_network(tmp_path):
    pixels = torch.arange(2 * 8 * 12, dtype=torch.uint8).view(2, 1, 8, 12)
    np.save(tmp_path / "images.npy", pixels.numpy())
    config = PruneConfig("diff_prune", criterion_options={"images": tmp_path / "images.npy"})
    for size in (8, (8, 8), (8, 12), (4, 6)):
        images = with_images(config, tiny_unet(sample_size=size)).criterion_options["images"]
        assert images.shape == (2, 3, *((size, size) if isinstance(size, int) else size)) and images.abs().max() <= 1
    assert torch.equal(
        with_images(config, tiny_unet(sample_size=(8, 12))).criterion_options["images"][:, :1],
        to_model_range(pixels)[torch.randperm(2, generator=torch.Generator().manual_seed(0))],
    )


def test_scores_come_from_training_images(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        images = [np.zeros((8, 8), np.uint8)] * 3
        return datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = PruneConfig("taylor", criterion_options={"images": "someone/images", "num_images": 2})
    assert len(with_images(config, tiny_unet()).criterion_options["images"]) == 2
    assert asked == [("someone/images", "train")]


def test_images_are_no_use_to_a_gan(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 8, 8), np.uint8))
    options = {"criterion_options": {"images": str(tmp_path / "images.npy")}}
    with pytest.raises(ValueError, match="images are for criteria of diffusion UNets; a StyleGAN2Generator has no"):
        gz.compress(tiny_generator(), [{"step": "prune", "criterion": "taylor", **options}])
    with pytest.raises(ValueError, match="magnitude"):
        gz.compress(tiny_unet(), [{"step": "prune", "criterion": "magnitude", **options}])


def test_the_machine_is_named_by_its_processor():
    name, _, threads = machine().rpartition(", ")
    assert threads == f"{torch.get_num_threads()} threads" and name
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and "model name" in cpuinfo.read_text():
        assert name in cpuinfo.read_text()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not the config of a model"),
        ("{}", "KeyError"),
        ("[1]", "TypeError"),
        ('{"_class_name": "os"}', "the class 'os'"),
    ],
)
def test_folders_that_are_no_model_are_refused(tmp_path, content, message):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        gz.load_model(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        gz.load_model(tmp_path)


def test_report_totals_and_json():
    layers = (
        LayerReport("a.weight", "Linear", (4, 8), 128, 20, bits=4, method="aciq", sqnr_db=18.5),
        LayerReport("b.weight", "Linear", (2, 8), 64, 64, skipped="last block (skip_last_block)"),
    )
    report = QuantizeReport(layers, other_bytes=8)
    assert (report.bytes_before, report.bytes_after) == (200, 92)
    assert report.bits_per_weight == 5.0 and report.quantized_share == 0.64
    restored = json.loads(json.dumps(report.to_dict()))
    assert restored["layers"][0]["sqnr_db"] == 18.5 and restored["bytes_after"] == 92
    assert "18.50" in str(report) and "last block" in str(report) and "2.17x smaller" in str(report)
