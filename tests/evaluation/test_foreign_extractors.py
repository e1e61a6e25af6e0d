# SPDX-License-Identifier: Apache-2.0
"""Extractors of other libraries' networks, with random weights from files: nothing is downloaded."""

import hashlib
import io

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from hf_ganzip.evaluation.extractors import extract_features, load_extractor
from hf_ganzip.evaluation.extractors.inception import InceptionExtractor
from hf_ganzip.evaluation.extractors.weights import read_weights, weights_digest


def images(channels=3, count=3, side=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    network = models.vgg16(weights=None, init_weights=False)
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.safetensors"
    save_file(network.state_dict(), path)
    return path, network.eval()


def test_vgg16_is_the_second_fully_connected_layer(vgg16_file):
    path, network = vgg16_file
    x = F.interpolate(images().float() / 255, (224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        hidden = network.avgpool(network.features((x - mean) / std)).flatten(1)
        first = F.relu(F.linear(hidden, network.classifier[0].weight, network.classifier[0].bias))
        expected = F.relu(F.linear(first, network.classifier[3].weight, network.classifier[3].bias))
    extractor = load_extractor(f"vgg16:{path}")
    features = extract_features(images(), extractor, progress=False)
    assert features.shape == (3, 4096) == (3, extractor.dim)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert len(extractor.digest) == 64 and "224x224" in extractor.resize
    grey = images(1)
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"allowed is \(B, 1 or 3, H, W\)"):
        extractor(images(4))


def test_weights_of_another_network_are_refused(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="has not the weights of torchvision's vgg16"):
        load_extractor(f"vgg16:{tmp_path / 'x.safetensors'}")


def test_inception_is_torch_fidelitys(tmp_path):
    name = "torch_fidelity.feature_extractor_inceptionv3"
    module = pytest.importorskip(name, reason="torch-fidelity is not installed")

    class RandomInception(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):  # keeps what it was initialized with
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = RandomInception("random", ["2048", "logits"], nothing)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    expected = network(images())
    for logits, values in enumerate(expected):
        extractor = InceptionExtractor(tmp_path / "inception.pth", logits=bool(logits))
        assert torch.equal(extractor(images()), values) and extractor.dim == values.shape[1]
    assert len(extractor.digest) == 64 and "TensorFlow 1" in extractor.resize


def test_code_in_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot|can be read without running code"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_weights(tmp_path / "missing.pth")


def test_dinov2_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**small, image_size=28, patch_size=14)
    network = transformers.Dinov2Model(config).eval()
    network.save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    transformers.BitImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path)
    extractor = load_extractor(f"dinov2:{tmp_path}")
    features = extractor(images())
    assert features.shape == (3, 16) == (3, extractor.dim) and features.dtype == torch.float32
    pixels = extractor.processor(list(images()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network(pixel_values=pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(features, expected)
    assert "size" in extractor.resize and "grey" in extractor.resize
    assert extractor(images(1)).shape == (3, 16)


def test_clip_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen, read = small | {"image_size": 28, "patch_size": 14}, small | {"vocab_size": 20}
    config = transformers.CLIPConfig(text_config=read, vision_config=seen, projection_dim=12)
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    transformers.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path)
    extractor = load_extractor(f"clip:{tmp_path}")
    features = extractor(images())
    assert features.shape == (3, 12) == (3, extractor.dim)
    assert not torch.allclose(features[0], features[1])


def test_digest_sees_names_dtypes_and_bits():
    layer = torch.nn.Linear(2, 2)
    digest = weights_digest(layer)
    assert digest == weights_digest(layer) and len(digest) == len(hashlib.sha256().hexdigest())
    assert weights_digest(torch.nn.Sequential(layer)) != digest
    assert weights_digest(layer.double()) != digest
    layer.float().weight.data[0, 0] += 1e-7
    assert weights_digest(layer) != digest
