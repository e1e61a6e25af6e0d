# SPDX-License-Identifier: Apache-2.0
"""Presets have the official sizes; configs that cannot be are refused."""

import pytest
import torch

from hf_ganzip import models

from ..conftest import tiny_biggan, tiny_biggan_deep, tiny_generator, tiny_stylegan, tiny_stylegan3


@pytest.mark.parametrize(
    "name, preset, parameters",
    [
        ("BigGANGenerator", "cifar10", 4_304_387),
        ("BigGANGenerator", "cifar100", 4_580_867),
        ("BigGANGenerator", "imagenet-64", 31_969_540),
        ("BigGANGenerator", "imagenet-128", 70_433_988),
        ("BigGANDiscriminator", "cifar10", 4_207_361),
        ("BigGANDiscriminator", "cifar100", 4_230_401),
        ("BigGANDiscriminator", "imagenet-64", 20_571_842),
        ("BigGANDiscriminator", "imagenet-128", 87_982_370),
        # without the image outputs of the eight lower resolutions, which a grown network does not use
        ("StyleGANGenerator", "ffhq-1024", 26_219_627 - 7_608),
        ("StyleGAN3Generator", "ffhq-256-t", 23_320_443),
        ("UGATITGenerator", "light-256", 10_589_888),
        ("UGATITGenerator", "full-256", 10_589_888 + 268_435_456 - 65_536),
        ("UGATITDiscriminator", "global", 53_130_176),
        ("UGATITDiscriminator", "local", 3_290_560),
    ],
)
def test_official_parameter_counts(name, preset, parameters):
    with torch.device("meta"):
        assert getattr(models, name).from_preset(preset).num_parameters() == parameters


@pytest.mark.parametrize("preset, millions", [("imagenet-128", 50.4), ("imagenet-256", 55.9), ("imagenet-512", 56.2)])
def test_official_parameter_counts_of_biggan_deep(preset, millions):
    """The published layer has as many outputs as inputs and drops all but three; ours has three."""
    with torch.device("meta"):
        generator = models.BigGANDeepGenerator.from_preset(preset)
    inputs = generator.config.channels[-1]
    dropped = (inputs - 3) * (9 * inputs + 1)
    assert (generator.num_parameters() + dropped) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    "make, change, message",
    [
        (tiny_generator, {"resolution": 24}, "allowed are powers of two from 4"),
        (
            tiny_generator,
            {"channels": (8, 8)},
            r"channels has 2 entries; resolution 16 needs one for each of \[4, 8, 16\]",
        ),
        (tiny_generator, {"architecture": "unet"}, "allowed are skip, resnet, orig"),
        (tiny_generator, {"mapping_layers": 0}, "mapping_layers is 0; allowed are 1 and more"),
        (tiny_stylegan, {"num_classes": 3}, "StyleGAN has no classes"),
        (tiny_stylegan3, {"resolution": 24}, "powers of two"),
        (tiny_stylegan3, {"num_critical": 4}, "num_critical is 4"),
        (tiny_stylegan3, {"num_critical": 0}, "num_critical is 0; allowed are 1 to 3"),
        (tiny_stylegan3, {"mapping_layers": 0}, "mapping_layers is 0; allowed are 1 and more"),
        (tiny_stylegan3, {"channels": (8, 8)}, "needs 5"),
        (tiny_biggan, {"resolution": 32}, "3 blocks|2 blocks"),
        (tiny_biggan, {"z_dim": 10}, "multiple of 3"),
        (tiny_biggan, {"shared_dim": 0}, "shared class embedding"),
        (tiny_biggan, {"num_classes": 0}, "num_classes is 0"),
        (tiny_biggan, {"init": "zeros"}, "ortho, N02, xavier"),
        (tiny_biggan, {"channels": None, "resolution": 48}, "official widths"),
        (tiny_biggan_deep, {"channels": (16, 16, 32)}, "do not grow"),
    ],
)
def test_wrong_configs_are_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
