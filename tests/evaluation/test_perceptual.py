# SPDX-License-Identifier: Apache-2.0
import sys
import warnings

import numpy as np
import pytest
import torch

from hf_ganzip.evaluation import perceptual
from hf_ganzip.evaluation.perceptual import load_network, perceptual_distance, structural_similarity


def images(n=5, channels=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def noisy(originals, strength):
    noise = strength * torch.randn(originals.shape, generator=torch.Generator().manual_seed(9))
    return (originals + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture
def offline_weights(monkeypatch):
    """Random backbone weights where torchvision would download; everything else is the real loading code."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")

    def random_weights(self, *args, **kwargs):
        torch.manual_seed(5)
        return getattr(torchvision.models, type(self).__name__.removesuffix("_Weights").lower())().state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", random_weights)


def reference_network(net):
    """Of the lpips package: random backbone, calibrated layers."""
    lpips = pytest.importorskip("lpips", reason="lpips is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated")
        warnings.filterwarnings("ignore", message="Arguments other than a weight enum")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def random_network():
    torch.manual_seed(0)
    return reference_network("squeeze")


class TestStructuralSimilarity:
    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

    @pytest.mark.parametrize("channels", [1, 3])
    def test_falls_with_noise(self, channels):
        originals = images(channels=channels)
        found = [structural_similarity(real=originals, generated=noisy(originals, each)) for each in (0, 10, 40, 120)]
        values = [each["structural_similarity"] for each in found]
        assert values[0] == pytest.approx(1) and values == sorted(values, reverse=True) and values[-1] < 0.8

    def test_constant_images_by_the_formula(self):
        real = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
        c1 = 2.55**2
        expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
        result = structural_similarity(real=real, generated=real + 50)
        assert result["structural_similarity"] == pytest.approx(expected, rel=1e-9)

    def test_batches_do_not_matter_and_pairs_are_symmetric(self):
        real, generated = images(), images(seed=1)
        result = structural_similarity(real=real, generated=generated)
        for size in (1, 2, 5):
            assert structural_similarity(real=real, generated=generated, batch_size=size) == pytest.approx(result)
        assert structural_similarity(real=generated, generated=real) == pytest.approx(result)
        assert result["n_pairs"] == 5

    def test_too_small_images_are_refused(self):
        with pytest.raises(ValueError, match="images are 10x10; allowed are 11x11 and larger. Resize them"):
            structural_similarity(real=images(size=10), generated=images(size=10))


class TestPerceptualDistance:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_rises_with_noise(self, random_network, channels):
        originals = images(channels=channels)
        noised = [noisy(originals, strength) for strength in (0, 20, 60)]
        values = [perceptual_distance(real=originals, generated=each, net=random_network) for each in noised]
        assert [value["net"] for value in values] == ["LPIPS"] * 3
        values = [value["perceptual_distance"] for value in values]
        assert values[0] == 0 and values == sorted(values) and values[-1] > 0

    def test_grey_images_count_as_three_equal_channels(self, random_network):
        real, generated = images(channels=1), images(channels=1, seed=1)
        repeated = {"real": real.repeat(1, 3, 1, 1), "generated": generated.repeat(1, 3, 1, 1)}
        grey = perceptual_distance(real=real, generated=generated, net=random_network)
        assert grey == pytest.approx(perceptual_distance(**repeated, net=random_network))

    def test_batches_do_not_matter(self, random_network):
        real, generated = images(), images(seed=1)
        pairs = ({"real": real[i : i + 1], "generated": generated[i : i + 1]} for i in range(5))
        each = [perceptual_distance(**pair, net=random_network)["perceptual_distance"] for pair in pairs]
        for size in (2, 64):
            result = perceptual_distance(real=real, generated=generated, net=random_network, batch_size=size)
            assert result["perceptual_distance"] == pytest.approx(np.mean(each), rel=1e-5)
            assert result["perceptual_distance_std"] == pytest.approx(np.std(each), rel=1e-3)

    @pytest.mark.parametrize("net", sorted(perceptual.SMALLEST))
    def test_named_networks_load_and_agree_with_the_lpips_package(self, net, offline_weights):
        network, reference = load_network(net), reference_network(net)
        weights = network.net.state_dict().values()  # the same layers in the same order under other names
        reference.net.load_state_dict(dict(zip(reference.net.state_dict(), weights)))
        real, generated = images(n=2), images(n=2, seed=1)
        result = perceptual_distance(real=real, generated=generated, net=net)
        expected = perceptual_distance(real=real, generated=generated, net=reference)
        assert result["perceptual_distance"] == pytest.approx(expected["perceptual_distance"], rel=1e-5)
        assert result["net"] == net and result["perceptual_distance"] > 0

    @pytest.mark.parametrize("net, size", sorted(perceptual.SMALLEST.items()))
    def test_smallest_images(self, net, size, offline_weights):
        real = images(n=1, size=size)
        assert perceptual_distance(real=real, generated=real, net=net)["perceptual_distance"] == 0
        with pytest.raises(ValueError, match=f"images are {size - 1}x{size - 1}; allowed are {size}x{size}"):
            perceptual_distance(real=images(size=size - 1), generated=images(size=size - 1), net=net)
        with pytest.raises(RuntimeError, match="too small"):  # the limit is the network's, not ours
            load_network(net)(torch.zeros(1, 3, size - 1, size - 1), torch.zeros(1, 3, size - 1, size - 1))

    def test_weights_that_cannot_be_had_say_what_to_do(self, offline_weights, monkeypatch):
        import torchvision

        def fail(self, *args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fail)
        with pytest.raises(OSError, match=r"weights of 'alex' could not be loaded \(no network\).*net="):
            perceptual_distance(real=images(), generated=images())

    def test_bad_networks_and_channels_are_refused(self):
        with pytest.raises(ValueError, match="Unknown net 'vggg'. Did you mean 'vgg'"):
            perceptual_distance(real=images(), generated=images(), net="vggg")
        with pytest.raises(ValueError, match="2 channels; allowed are 1"):
            perceptual_distance(real=images(channels=2), generated=images(channels=2))
        with pytest.raises(ValueError, match=r"returned shape \(5, 2\) for 5 pairs"):
            perceptual_distance(real=images(), generated=images(), net=lambda a, b: torch.zeros(5, 2))
        with pytest.raises(ValueError, match="batch_size is 0"):
            perceptual_distance(real=images(), generated=images(), net=lambda a, b: torch.zeros(5), batch_size=0)


@pytest.mark.parametrize("metric", [structural_similarity, perceptual_distance])
class TestBoth:
    def test_what_are_no_pairs_is_refused(self, metric):
        for other in (images(n=4), images(channels=1), images(size=40)):
            with pytest.raises(ValueError, match="pairs have the same number and shape"):
                metric(real=images(), generated=other)
        with pytest.raises(ValueError, match="allowed is .N, C, H, W. with N >= 1"):
            metric(real=images(n=0), generated=images(n=0))
        for wrong in (images().float(), images().numpy()):
            with pytest.raises(TypeError, match="generated is .*allowed is a torch.uint8 tensor"):
                metric(real=images(), generated=wrong)

    def test_a_missing_library_names_the_pip_line(self, metric, monkeypatch):
        for name in ("torchmetrics", "torchmetrics.functional.image", "torchmetrics.image.lpip"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r'pip install "hf_ganzip\[perceptual\]"'):
            metric(real=images(), generated=images())
