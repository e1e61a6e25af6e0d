# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from hf_ganzip.training.losses import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    r1_penalty,
    twin_discriminator_loss,
    twin_generator_loss,
)


def test_losses_are_cross_entropies_of_the_sigmoid():
    real, generated = torch.randn(7, 1, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    expected = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(generated)).log().mean())
    assert float(logistic_discriminator_loss(real, generated)) == pytest.approx(float(expected), rel=1e-6)
    assert float(logistic_generator_loss(generated)) == pytest.approx(
        float(-torch.sigmoid(generated).log().mean()), rel=1e-6
    )


def test_losses_of_extreme_logits_are_finite_and_half_precision_is_widened():
    logits = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(logistic_discriminator_loss(logits, logits)) and torch.isfinite(
        logistic_generator_loss(logits)
    )
    assert logistic_generator_loss(logits.bfloat16()).dtype == torch.float32


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


def test_hinge_of_hand_computed_logits():
    """D(real) = (.5, 2), D(fake) = (-2, .5): real .25, fake .75, generator .75."""
    real, generated = torch.tensor([[0.5], [2.0]]), torch.tensor([[-2.0], [0.5]])
    assert float(hinge_discriminator_loss(real, generated)) == pytest.approx(0.25 + 0.75)
    assert float(hinge_generator_loss(generated)) == pytest.approx(0.75)


def test_twin_losses_of_equal_logits():
    """Two classes, all logits equal: every cross entropy is ln 2, and the generator's difference 0."""
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert float(twin_discriminator_loss(logits, logits, labels)) == pytest.approx(2 * math.log(2))
    assert float(twin_generator_loss(logits, logits, labels)) == 0


def test_twin_generator_loss_prefers_what_the_classifier_knows_and_the_twin_does_not():
    sure, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([0])
    assert float(twin_generator_loss(sure, torch.zeros(1, 2), labels)) < 0
    assert float(twin_generator_loss(torch.zeros(1, 2), sure, labels)) > 0
