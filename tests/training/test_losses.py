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


def test_logistic_losses_are_cross_entropies_of_the_sigmoid_in_float32():
    real, generated = torch.randn(7, 1, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    of_real, of_generated = torch.sigmoid(real).log().mean(), (1 - torch.sigmoid(generated)).log().mean()
    assert float(logistic_discriminator_loss(real, generated)) == pytest.approx(-float(of_real + of_generated))
    assert float(logistic_generator_loss(real)) == pytest.approx(-float(of_real))
    extreme = torch.tensor([[1e4], [-1e4]])
    assert float(logistic_discriminator_loss(extreme, extreme)) == 2 * float(logistic_generator_loss(extreme)) == 1e4
    assert logistic_generator_loss(extreme.bfloat16()).dtype == torch.float32


def test_r1_of_a_quadratic_discriminator_is_the_mean_over_images_and_has_a_gradient():
    images = torch.randn(5, 2, 3, 3, requires_grad=True)
    penalty = r1_penalty(images.square().sum(dim=(1, 2, 3))[:, None], images)  # gradient 2 x
    assert penalty.item() == pytest.approx((2 * images).square().sum(dim=(1, 2, 3)).mean().item() / 2, rel=1e-6)
    penalty.backward()
    torch.testing.assert_close(images.grad, 4 * images.detach() / 5)  # d(|2 x|^2 / 2) / dx, of the mean


def test_hinge_of_hand_computed_logits():
    """D(real) = (.5, 2), D(fake) = (-2, .5): real .25, fake .75, generator .75."""
    real, generated = torch.tensor([[0.5], [2.0]]), torch.tensor([[-2.0], [0.5]])
    assert float(hinge_discriminator_loss(real, generated)) == pytest.approx(0.25 + 0.75)
    assert float(hinge_generator_loss(generated)) == pytest.approx(0.75)


def test_twin_losses_by_hand():
    """The generator's prefers what the classifier knows and the twin does not."""
    sure, unsure, labels = torch.tensor([[4.0, 0.0]]), torch.zeros(1, 2), torch.tensor([0])
    known, unknown = math.log1p(math.exp(-4)), math.log(2)  # cross entropies
    assert float(twin_discriminator_loss(sure, unsure, labels)) == pytest.approx(known + unknown)
    assert float(twin_generator_loss(sure, unsure, labels)) == pytest.approx(known - unknown)
