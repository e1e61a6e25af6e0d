# SPDX-License-Identifier: Apache-2.0
"""The feature network and its training script."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState

from hf_ganzip.models.feature_network import FeatureNetwork


pytestmark = pytest.mark.processor


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "examples" / "train_feature_network.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


@pytest.fixture(autouse=True)
def forget_accelerate_state():
    yield
    PartialState._reset_state()


def images(channels=1):
    return torch.rand(4, channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embedding_is_the_non_negative_input_of_the_classifier():
    network = FeatureNetwork(channels=(4, 8), embedding_dim=16, num_classes=3).eval()
    output = network(images())
    assert output.logits.shape == (4, 3) and output.embedding.shape == (4, 16)
    assert output.embedding.min() >= 0
    torch.testing.assert_close(network.classifier(output.embedding), output.logits)


def test_save_and_load_give_the_same_bits(tmp_path):
    network = FeatureNetwork(channels=(4, 8), embedding_dim=16, image_channels=3).eval()
    expected = network(images(channels=3), return_dict=False)
    network.save_pretrained(tmp_path)
    loaded = FeatureNetwork.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded(images(channels=3), return_dict=False), expected))
    floats = [tensor for tensor in loaded.state_dict().values() if tensor.is_floating_point()]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in floats)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 28, 28), (1, 32, 32)])
def test_wrong_image_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"images has shape .*; allowed is \(batch, 1, 32, 32\)"):
        FeatureNetwork(channels=(4,), embedding_dim=4)(torch.zeros(shape))


@pytest.mark.parametrize("image_size", [28, 4])
def test_image_size_must_halve_for_every_convolution(image_size):
    with pytest.raises(ValueError, match="allowed with 3 channels entries are multiples of 8"):
        FeatureNetwork(image_size=image_size)


def test_training_script_repeats_itself_under_a_seed(script, tmp_path):
    weights = []
    for name in ("first", "second"):
        script.main(script.parse_args(["--smoke", "--output_dir", str(tmp_path / name)]))
        weights.append((tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    report = json.loads((tmp_path / "first" / "training.json").read_text())
    assert 0 <= report["test_accuracy"] <= 1 and report["options"]["seed"] == 0


def test_augmentation_moves_and_mirrors_whole_images(script):
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[0, 0, 3, 2], image[0, 0, 3, 3] = 7, 9
    batch = script.augment(image.repeat(64, 1, 1, 1), 2, torch.Generator().manual_seed(0))
    assert batch.shape == (64, 1, 8, 8)
    left = (batch == 7).nonzero()[:, 2:]  # positions (row, column) of each pixel
    right = (batch == 9).nonzero()[:, 2:]
    assert len(left) == len(right) == 64
    step = right - left
    assert (step[:, 0] == 0).all() and sorted(step[:, 1].unique().tolist()) == [-1, 1]
    assert left[:, 0].min() == 1 and left[:, 0].max() == 5


def test_a_folder_without_test_images_gives_no_test_accuracy(script, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    flags = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="has no test images; allowed are"):
        script.main(script.parse_args(flags))
