# SPDX-License-Identifier: Apache-2.0
"""Features do not depend on how they are computed, and wrong images are refused."""

from __future__ import annotations

import hashlib

import pytest
import torch

from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation import EXTRACTORS, extract_features, load_reference


@pytest.fixture(scope="module")
def extractor():
    return EXTRACTORS["fashion_mnist"]()


@pytest.fixture(scope="module")
def images():
    return load_reference("fashion-mnist-test-5000")[0][:40]


def test_the_extractor_states_its_conditions(extractor):
    assert extractor.name == "fashion_mnist" in EXTRACTORS and extractor.dim > 0 and extractor.resize
    data = (asset_path("fashion-mnist-features") / "diffusion_pytorch_model.safetensors").read_bytes()
    assert extractor.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_features_do_not_depend_on_the_batch_size(images, extractor, batch_size):
    features = extract_features(images, extractor, batch_size=batch_size, progress=False)
    assert features.shape == (40, 128) and features.dtype == torch.float32
    torch.testing.assert_close(features, extract_features(images, extractor, progress=False), rtol=1e-5, atol=1e-5)


def test_small_images_are_centred_on_black(images, extractor):
    padded = torch.zeros(len(images), 1, 32, 32, dtype=torch.uint8)
    padded[:, :, 2:30, 2:30] = images
    assert torch.equal(extractor(padded), extractor(images))


def test_a_name_an_object_and_any_callable_extract(images, extractor, capsys):
    by_name = extract_features(images, "fashion_mnist", progress=False)
    assert torch.equal(by_name, extract_features(images, extractor, progress=False))
    features = extract_features(images, lambda batch: batch.flatten(1).double(), batch_size=16)
    assert torch.equal(features, images.flatten(1).float())
    assert "40/40" in capsys.readouterr().err, "the bar counts images"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 32, 32), "images have 3 channels; allowed is 1"),
        ((2, 1, 64, 64), "images are 64x64; allowed are square images of at most 32x32"),
        ((2, 1, 28, 30), "images are 28x30; allowed are square"),
        ((0, 1, 28, 28), "allowed is .* with N >= 1"),
        ((1, 28, 28), r"images has shape \(1, 28, 28\)"),
    ],
)
def test_wrong_images_are_refused(shape, message, extractor):
    with pytest.raises(ValueError, match=message):
        extract_features(torch.zeros(shape, dtype=torch.uint8), extractor, progress=False)


def test_other_wrong_arguments(images):
    with pytest.raises(TypeError, match=r"images is torch.float32; allowed is a torch.uint8 tensor"):
        extract_features(images.float())
    with pytest.raises(TypeError, match="images is list"):
        extract_features([1])
    with pytest.raises(ValueError, match="batch_size is 0"):
        extract_features(images, batch_size=0)
    with pytest.raises(ValueError, match="Unknown extractor 'fashion_mnits'. Did you mean 'fashion_mnist'"):
        extract_features(images, "fashion_mnits")
    with pytest.raises(ValueError, match="takes no source"):
        extract_features(images, "fashion_mnist:elsewhere")
    with pytest.raises(ValueError, match=r"returned shape \(40, 1, 28, 28\) for 40 images"):
        extract_features(images, lambda batch: batch.float(), progress=False)
