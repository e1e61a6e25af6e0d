# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from hf_ganzip.training.losses import discriminator_loss, generator_loss, r1_penalty


def test_losses_are_cross_entropies_of_the_sigmoid():
    real, generated = torch.randn(7, 1, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    expected = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(generated)).log().mean())
    assert float(discriminator_loss(real, generated)) == pytest.approx(float(expected), rel=1e-6)
    assert float(generator_loss(generated)) == pytest.approx(float(-torch.sigmoid(generated).log().mean()), rel=1e-6)


def test_undecided_discriminator():
    zero = torch.zeros(3, 1)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))


def test_losses_of_extreme_logits_are_finite_and_half_precision_is_widened():
    logits = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(discriminator_loss(logits, logits)) and torch.isfinite(generator_loss(logits))
    assert generator_loss(logits.bfloat16()).dtype == torch.float32


def test_r1_of_a_linear_discriminator_is_half_the_squared_norm_of_its_weight():
    weight = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = r1_penalty((images * weight).sum(dim=(1, 2, 3))[:, None], images)
    assert penalty.item() == pytest.approx(weight.square().sum().item() / 2, rel=1e-6)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight)  # d(|w|^2 / 2) / dw


def test_r1_of_a_quadratic_discriminator_is_the_mean_over_images():
    images = torch.randn(5, 2, 3, 3, requires_grad=True)
    penalty = r1_penalty(images.square().sum(dim=(1, 2, 3))[:, None], images)  # gradient 2 x
    assert penalty.item() == pytest.approx((2 * images).square().sum(dim=(1, 2, 3)).mean().item() / 2, rel=1e-6)
