# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.models.stylegan2_discriminator import minibatch_std

from ..conftest import tiny_discriminator
from .golden import close


pytestmark = pytest.mark.processor


@pytest.mark.parametrize("architecture", ["skip", "orig"])
def test_every_parameter_gets_a_gradient(architecture):
    discriminator = tiny_discriminator(architecture=architecture)
    discriminator(torch.randn(4, 3, 16, 16), torch.arange(4) % 3).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_minibatch_deviation_by_hand():
    x = torch.randn(6, 2, 4, 4)
    result = minibatch_std(x, 3)
    assert result.shape == (6, 3, 4, 4) and torch.equal(result[:, :2], x)
    for first in (0, 1):  # groups are samples first, first + 2, first + 4
        group = x[first::2]
        deviation = (group.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(result[first::2, 2], deviation.expand(3, 4, 4))
    assert torch.equal(minibatch_std(x[:3], 4), minibatch_std(x[:3], 3))  # a small batch is one group


def test_logits_of_a_sample_alone_without_minibatch_deviation():
    discriminator = tiny_discriminator(mbstd_group_size=1)
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5) % 3
    together = discriminator(images, labels).logits
    close(torch.cat([discriminator(i[None], c[None]).logits for i, c in zip(images, labels)]), together, 1e-5)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        ((4, 3, 8, 8), (4,), r"images has shape \(4, 3, 8, 8\); allowed is \(batch, 3, 16, 16\)"),
        ((4, 3, 16, 16), None, "class_labels is required"),
        ((6, 3, 16, 16), (6,), "batch size 6 is not a multiple of mbstd_group_size=4"),
    ],
)
def test_wrong_calls(images, labels, message):
    with pytest.raises(ValueError, match=message):
        tiny_discriminator()(torch.zeros(images), None if labels is None else torch.zeros(labels).long())


def test_first_and_second_derivatives_agree_with_finite_differences():
    discriminator = tiny_discriminator(resolution=8, channels=(4, 4), num_classes=0, image_channels=1).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def logits(x):
        return discriminator(x).logits

    assert torch.autograd.gradcheck(logits, images)
    assert torch.autograd.gradgradcheck(logits, images)
