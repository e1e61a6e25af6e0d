# SPDX-License-Identifier: Apache-2.0
"""What ships with the library is what its cards say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.assets import ASSETS, asset_path
from hf_ganzip.evaluation import extract_features, load_reference
from hf_ganzip.evaluation.extractors import FashionMNISTExtractor
from hf_ganzip.evaluation.sampling import sample_images


FEATURES = "fashion-mnist-features"
IMAGES = "fashion-mnist-test-5000"


def test_feature_network_classifies_the_bundled_images_as_its_card_says():
    extractor = FashionMNISTExtractor()
    images, labels = load_reference(IMAGES)
    with torch.no_grad():
        logits = extractor.network.classifier(extract_features(images, extractor, progress=False))
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()

    report = json.loads((asset_path(FEATURES) / "training.json").read_text())
    assert accuracy >= 0.91
    assert accuracy == pytest.approx(report["test_accuracy"], abs=0.01)  # 5,000 of the 10,000 test images
    card = (asset_path(FEATURES) / "README.md").read_text()
    assert f"**{report['test_accuracy']}**" in card
    assert f"{report['parameters']:,} parameters" in card and f"{report['seconds']} seconds" in card


def test_reference_images_are_balanced_and_real():
    images, labels = load_reference(IMAGES)
    assert images.shape == (5000, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [500] * 10
    assert images.flatten(1).unique(dim=0).shape[0] > 4990
    assert images.float().mean().item() == pytest.approx(73, abs=1)  # mean grey value of Fashion-MNIST


def test_cards_state_licences():
    features = (asset_path(FEATURES) / "README.md").read_text()
    images = asset_path(IMAGES).with_suffix(".md").read_text()
    assert "license: apache-2.0" in features and "MIT licence" in features
    assert "The MIT License (MIT)" in images and "Copyright (c) 2017 Zalando SE" in images


def test_assets_stay_small():
    def size(name: str) -> float:
        path = asset_path(name)
        files = [path] if path.is_file() else path.rglob("*")
        return sum(file.stat().st_size for file in files) / 2**20

    assert size(FEATURES) < 1.5
    assert size(IMAGES) < 3
    assert size("stylegan2-fashion-mnist") < 4 and size("biggan-fashion-mnist") < 4
    assert size("ddpm-fashion-mnist") < 6


def test_ddpm_is_what_its_card_says():
    card = (asset_path("ddpm-fashion-mnist") / "README.md").read_text()
    model = gz.load_model(asset_path("ddpm-fashion-mnist"))
    assert f"{model.num_parameters():,} parameters" in card
    images, _ = sample_images(model, 8, progress=False)
    assert images.shape == (8, 1, 32, 32)
    dark = (images < 30).float().mean().item()  # clothes before a black background, not noise
    assert 0.2 < dark < 0.95


@pytest.mark.process  # nothing is spawned, but 2,000 images are made
def test_biggan_measures_as_its_card_says():
    found = gz.evaluate("biggan-fashion-mnist", IMAGES, metrics=["frechet_distance"], num_samples=2000, seed=0)
    distance = found.metrics["frechet_distance"]["frechet_distance"]
    card = (asset_path("biggan-fashion-mnist") / "README.md").read_text()
    assert "0.905 / 0.403 | 1.72 |" in card
    assert distance == pytest.approx(1.72, abs=0.8)  # 2,000 of the 5,000 images: a little higher


def test_unknown_and_missing_assets(monkeypatch):
    with pytest.raises(
        ValueError, match="Unknown asset 'fashion-mnist-feature'. Did you mean 'fashion-mnist-features'"
    ):
        asset_path("fashion-mnist-feature")
    monkeypatch.setitem(ASSETS, "lost", "lost")
    with pytest.raises(FileNotFoundError, match="asset 'lost' is missing at .*; install hf_ganzip again"):
        asset_path("lost")


def test_reference_file_opens_with_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset("parquet", data_files=str(asset_path(IMAGES)), split="train", cache_dir=str(tmp_path))
    images, labels = load_reference(IMAGES)
    assert data[0]["image"].size == (28, 28) and data[0]["label"] == labels[0]
    assert (np.asarray(data[7]["image"]) == images[7, 0].numpy()).all()
    assert data.features["label"].names[9] == "Ankle boot"
