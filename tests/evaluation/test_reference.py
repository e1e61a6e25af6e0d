# SPDX-License-Identifier: Apache-2.0
"""Reference images come from the bundle, files, folders and `datasets` ids alike."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation import load_reference


BUNDLED = "fashion-mnist-test-5000"


def test_bundled_name_and_its_path_give_the_same():
    by_name, by_path = load_reference(BUNDLED), load_reference(asset_path(BUNDLED))
    assert torch.equal(by_name[0], by_path[0]) and torch.equal(by_name[1], by_path[1])


def test_resolution_centres_smaller_images():
    small, large = load_reference(BUNDLED)[0], load_reference(BUNDLED, resolution=32)[0]
    assert large.shape == (5000, 1, 32, 32)
    assert torch.equal(large[:, :, 2:30, 2:30], small)
    assert int(large.sum()) == int(small.sum())


def test_folder_without_classes_has_no_labels_and_is_sorted(tmp_path):
    for value in (30, 10, 20):
        Image.new("RGB", (6, 6), (value,) * 3).save(tmp_path / f"{value}.png")
    images, labels = load_reference(tmp_path)
    assert images.shape == (3, 3, 6, 6) and labels is None
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_images_of_different_sizes_need_a_resolution(tmp_path):
    Image.new("L", (6, 6)).save(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"images have 2 different sizes \(6x6, 8x8, ...\); set resolution"):
        load_reference(tmp_path)
    assert load_reference(tmp_path, resolution=8)[0].shape == (2, 1, 8, 8)


def test_datasets_id(monkeypatch):
    datasets = pytest.importorskip("datasets")
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"image": list(pixels), "label": [3, 1]}, features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or data)
    images, labels = load_reference("someone/images")
    assert asked == [("someone/images", "test")]
    assert torch.equal(images[:, 0], torch.from_numpy(pixels)) and labels.tolist() == [3, 1]


def test_bundled_images_load_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    assert len(load_reference(BUNDLED)[0]) == 5000
    with pytest.raises(ImportError, match=r'pip install "hf_ganzip\[metrics\]"'):
        load_reference("someone/images")


def test_mistyped_bundled_names_and_missing_splits(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name, split):
        if name == "someone/images":
            raise ValueError(f"Unknown split {split!r}. Should be one of ['train'].")
        raise ConnectionError(f"Couldn't reach {name!r}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=f"neither here nor on the Hub, .* Did you mean '{BUNDLED}'"):
        load_reference("fashion-mnist-tst-5000")
    with pytest.raises(ValueError, match=r"someone/images, split 'test': Unknown split 'test'. .* \['train'\]"):
        load_reference("someone/images")
