# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT: the official networks' values, sizes, and normalization."""

import pytest
import torch

from hf_ganzip.checkpoints.ugatit import renamed_spectral_norms
from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator
from hf_ganzip.models.ugatit_layers import AdaptiveInstanceLayerNorm

from ..conftest import changed, state_of, tiny_ugatit, tiny_ugatit_discriminator
from .golden import close, load_golden, part


pytestmark = pytest.mark.processor


@torch.no_grad()
def test_official_generator():
    _, weights, io = load_golden("ugatit_light")
    generator = UGATITGenerator(resolution=32, base_channels=8, num_blocks=2).eval()
    generator.load_state_dict(part(weights, "G."))
    output = generator(io["x"])
    close(output.sample, io["img"])
    close(output.cam_logits, io["cam"])
    close(output.heatmap, io["heatmap"])


@pytest.mark.parametrize("name, prefix, layers", [("global", "DG.", 7), ("local", "DL.", 5)])
@torch.no_grad()
def test_official_discriminators(name, prefix, layers):
    """The spectral norms were not iterated: values reach 1e10, so the tolerance is relative to them."""
    _, weights, io = load_golden("ugatit_light")
    discriminator = UGATITDiscriminator(base_channels=8, num_layers=layers).eval()
    discriminator.load_state_dict(renamed_spectral_norms(part(weights, prefix)))
    output = discriminator(io["xd"])
    for found, key in (
        (output.logits, "global_" if name == "global" else "local"),
        (output.cam_logits, f"{name}_cam"),
        (output.heatmap, f"{name}_heatmap"),
    ):
        close(found, io[key], float(io[key].abs().max()) * 1e-5)


def test_official_parameter_counts():
    with torch.device("meta"):
        light, full = (UGATITGenerator.from_preset(f"{name}-256") for name in ("light", "full"))
        discriminators = [UGATITDiscriminator.from_preset(name) for name in ("global", "local")]
    assert light.num_parameters() == 10_589_888
    assert full.num_parameters() - light.num_parameters() == 268_435_456 - 65_536
    assert [d.num_parameters() for d in discriminators] == [53_130_176, 3_290_560]


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


def test_rho_is_clipped():
    model = tiny_ugatit()
    with torch.no_grad():
        model.UpBlock1_1.norm1.rho.fill_(1.5)
        model.UpBlock2[3].rho.fill_(-0.5)
    model.clip_rho_()
    assert model.UpBlock1_1.norm1.rho.eq(1).all() and model.UpBlock2[3].rho.eq(0).all()


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
