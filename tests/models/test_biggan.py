# SPDX-License-Identifier: Apache-2.0
"""BigGAN: spectral normalization, statistics, class rows, heads; BigGAN-deep: statistics by truncation, latents. Values
of the official networks: tests/checkpoints.
"""

import pytest
import torch

from hf_ganzip.models import BigGANDiscriminator
from hf_ganzip.models.biggan_deep import statistics_weights
from hf_ganzip.models.spectral_norm import SNConv2d, SNLinear
from hf_ganzip.quantization.folding import folded_weight, is_parametrized, remove_parametrization_

from ..conftest import changed, state_of, tiny_biggan, tiny_biggan_deep
from .golden import close


pytestmark = pytest.mark.processor


@torch.no_grad()
def test_folding_spectral_norm_changes_nothing():
    generator = tiny_biggan()
    z, labels = torch.randn(2, generator.config.z_dim), torch.tensor([0, 2])
    before = generator(z, labels).sample
    modules = [module for module in generator.modules() if isinstance(module, (SNConv2d, SNLinear))]
    assert modules and all(is_parametrized(module) for module in modules)
    for module in modules:
        expected = folded_weight(module)
        remove_parametrization_(module)
        assert torch.equal(module.weight, expected) and not is_parametrized(module)
    assert not any(key.endswith(".u0") for key in generator.state_dict())
    assert torch.equal(generator(z, labels).sample, before)


def test_power_iteration_is_the_hand_computed_one():
    """W = diag(3, 1), u = (1, 1): sigma 2.8635638, then 2.9981728; eval mode repeats the first without storing it."""
    layer = SNLinear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        layer.u0.copy_(torch.ones(1, 2))
    layer.eval()
    for _ in range(2):
        close(3 / layer.effective_weight()[0, 0], torch.tensor(2.8635638), 1e-6)
    layer.train()
    for sigma in (2.8635638, 2.9981728):
        layer(torch.zeros(1, 2))
        close(layer.sv0, torch.tensor([sigma]), 1e-6)


def test_gradient_goes_through_sigma():
    layer = SNLinear(3, 4, bias=False).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    layer.eval()

    def output(weight):
        with torch.no_grad():
            layer.weight.copy_(weight)
        return layer(x).sum()

    gradient = torch.autograd.grad(output(layer.weight.detach().clone()), layer.weight)[0]
    direction = layer.weight.detach().clone()  # scaling the weight does not change the normalized one
    assert abs((gradient * direction).sum()) < 1e-10 < gradient.abs().max()


def test_batch_statistics_move_in_training_mode_only():
    generator = tiny_biggan()
    z, labels = torch.randn(8, generator.config.z_dim), torch.arange(8) % 3
    before = state_of(generator)
    generator(z, labels)
    assert not changed(before, generator)
    generator.train()(z, labels)
    moved = {name.rsplit(".", 1)[1] for name in changed(before, generator)}
    assert moved == {"stored_mean", "stored_var", "u0", "sv0"}


@torch.no_grad()
def test_class_rows_interpolate_embeddings():
    generator = tiny_biggan()
    z = torch.randn(2, generator.config.z_dim)
    ids = generator(z, torch.tensor([0, 2])).sample
    rows = torch.eye(3)[[0, 2]]
    assert torch.equal(generator(z, rows).sample, ids)
    between = generator(z, rows.mean(dim=0).expand(2, -1)).sample
    assert not torch.allclose(between, ids)


@pytest.mark.parametrize("head, classes", [("projection", 0), ("none", 3), ("other", 3)])
def test_discriminator_heads_are_checked(head, classes):
    with pytest.raises(ValueError, match="head|num_classes"):
        BigGANDiscriminator(resolution=16, channels=(8, 8), num_classes=classes, head=head)


def test_tac_heads():
    discriminator = BigGANDiscriminator(resolution=16, channels=(8, 8, 8), num_classes=4, head="tac")
    output = discriminator(torch.randn(2, 3, 16, 16))
    assert output.logits.shape == (2, 1) and output.class_logits.shape == output.twin_logits.shape == (2, 4)
    names = {key.split(".")[0] for key in discriminator.state_dict()}
    assert names == {"blocks", "linear", "linear_mi", "linear_c"}


@pytest.mark.parametrize("truncation, row", [(0.405, 20.75), (0.14, 8), (0.58, 28), (0.4, 20), (1.0, 50), (0.02, 1)])
def test_official_rows_repeat_the_published_code(truncation, row):
    """Rows filled with their index: reversed weights between rows, and rounding of some grid values to a neighbour."""
    assert sum(i * weight for i, weight in statistics_weights(truncation, 51, "official")) == pytest.approx(row)


@pytest.mark.parametrize("interpolation", ["official", "corrected"])
def test_no_row_lies_beyond_the_last(interpolation):
    """Among 2 to 300 rows are 50, 99, 104, 108 ..., for which 1 / (1 / (n - 1)) rounds above n - 1."""
    for count in range(2, 300):
        rows = statistics_weights(1.0, count, interpolation)
        assert all(0 <= row < count for row, _ in rows), count
        assert sum(weight for _, weight in rows) == pytest.approx(1)


@pytest.mark.parametrize("truncation", [0.405, 0.14, 0.28, 0.56, 0.58, 0.94, 0.4, 1.0, 0.001])
def test_corrected_rows_interpolate_linearly(truncation):
    rows = statistics_weights(truncation, 51, "corrected")
    assert sum(i * weight for i, weight in rows) == pytest.approx(truncation * 50)
    assert sum(weight for _, weight in rows) == pytest.approx(1)


@pytest.mark.parametrize("truncation", [0, -0.1, 1.01])
def test_truncation_is_checked(truncation):
    generator = tiny_biggan_deep()
    with pytest.raises(ValueError, match="0 < truncation_psi <= 1"):
        generator(torch.zeros(1, 6), torch.tensor([0]), truncation_psi=truncation)


def test_latents_are_cut_at_two_standard_deviations():
    generator = tiny_biggan_deep(z_dim=500)
    z = generator.draw_latents(200, torch.Generator().manual_seed(0), truncation_psi=0.5)
    assert z.shape == (200, 500) and z.abs().max() <= 1.0
    assert z.std() == pytest.approx(0.5 * 0.8796, abs=2e-3) and abs(z.mean()) < 2e-3  # of N(0, 1) cut at 2: .8796
