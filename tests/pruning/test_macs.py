# SPDX-License-Identifier: Apache-2.0
"""Operations by the conventions of the papers' tables."""

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.pruning.macs import count_macs, weight_uses

from ..conftest import tiny_discriminator, tiny_stylegan3, tiny_unet


def test_the_smallest_example():
    """Widths 4: 8, 8: 8, 16: 4; w_dim 16; two mapping layers: 110,592 + 4,992 + 512 + 896."""
    model = gz.StyleGAN2Generator(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 4), mapping_layers=2)
    assert count_macs(model) == 116_992


def test_downsampling_convolutions_count_at_their_output():
    """Convolutions 9 * i * o * positions, 1 x 1 ones of the image and the shortcut i * o * positions, dense layers i *
    o.
    """
    model = tiny_discriminator(num_classes=0)
    blocks = [(3 * 8 + 9 * 8 * 8) * 256 + (9 * 8 * 16 + 8 * 16) * 64, 9 * 16 * 16 * 64 + (9 * 16 * 16 + 16 * 16) * 16]
    assert count_macs(model) == sum(blocks) + 9 * 17 * 16 * 16 + 16 * 16 * 16 + 16


def test_fourier_features_count_at_every_pixel():
    model = tiny_stylegan3()
    uses = weight_uses(model)
    side = model.synthesis.input.size
    assert uses["synthesis.input.weight"] == side**2 and uses["synthesis.input.affine.weight"] == 1


@pytest.mark.parametrize("make", [tiny_stylegan3, tiny_discriminator, tiny_unet])
def test_the_dtype_does_not_matter(make):
    assert weight_uses(make().to(torch.bfloat16)) == weight_uses(make())


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, macs, pruned",
    [("ffhq-256-base", 45_124_673_536, 4_123_578_080), ("ffhq-256-small", 14_903_009_280, 1_386_445_024)],
)
def test_stylegan2_of_the_papers(preset, macs, pruned):
    model = gz.StyleGAN2Generator.from_preset(preset)
    assert count_macs(model) == macs
    assert gz.prune_(model, gz.PruneConfig("random", 0.7)).macs_after == pruned == count_macs(model)


def test_unets_are_counted_as_torch_pruning_does():
    tp = pytest.importorskip("torch_pruning")
    model = tiny_unet()
    expected, _ = tp.utils.count_ops_and_params(model, (torch.zeros(1, 3, 8, 8), torch.ones(1)))
    assert count_macs(model) == expected


def test_the_mode_and_the_hooks_are_left_alone():
    model = tiny_unet().train()
    weight_uses(model)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="belongs to no family"):
        count_macs(nn.Linear(2, 2))
