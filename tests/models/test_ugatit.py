# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT: sizes of images, and normalization. The official networks' values: tests/checkpoints."""

import pytest
import torch

from hf_ganzip.models.ugatit_layers import AdaptiveInstanceLayerNorm

from ..conftest import changed, state_of, tiny_ugatit, tiny_ugatit_discriminator
from .golden import close


pytestmark = pytest.mark.processor


def test_variances_are_unbiased():
    """One channel with the values 0 and 2: normalized to +-.707105 (biased variances would give 1)."""
    norm = AdaptiveInstanceLayerNorm(1)
    found = norm(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.ones(1, 1), torch.zeros(1, 1))
    close(found.flatten(), torch.tensor([-0.707105, 0.707105]), 1e-5)


@torch.no_grad()
def test_light_model_takes_other_sizes_and_the_full_one_does_not():
    assert tiny_ugatit()(torch.zeros(1, 3, 24, 32)).sample.shape == (1, 3, 24, 32)
    full = tiny_ugatit(light=False)
    assert full(torch.zeros(1, 3, 16, 16)).sample.shape == (1, 3, 16, 16)
    for model, shape in ((full, (1, 3, 24, 24)), (tiny_ugatit(), (1, 3, 18, 16)), (full, (1, 1, 16, 16))):
        with pytest.raises(ValueError, match="allowed is"):
            model(torch.zeros(shape))


def test_power_iterations_happen_in_training_mode_only():
    model = tiny_ugatit_discriminator()
    with torch.no_grad():
        model.gap_fc.weight_v.normal_()
    before = state_of(model)
    model(torch.randn(1, 3, 64, 64))
    assert not changed(before, model)
    model.train()(torch.randn(1, 3, 64, 64))
    assert "gap_fc.weight_v" in changed(before, model)


def test_class_labels_are_refused():
    """It is called as all discriminators are, but has no classes."""
    discriminator = tiny_ugatit_discriminator()
    images = torch.zeros(2, 3, 64, 64)
    assert torch.equal(discriminator(images, None).logits, discriminator(images).logits)
    with pytest.raises(ValueError, match="class_labels were given"):
        discriminator(images, torch.tensor([0, 1]))
