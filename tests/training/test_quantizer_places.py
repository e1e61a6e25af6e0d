# SPDX-License-Identifier: Apache-2.0
"""Feature quantizers at places in discriminators."""

import copy

import pytest
import torch

from hf_ganzip.families import example_inputs
from hf_ganzip.models import BigGANDiscriminator, StyleGAN2Discriminator, UGATITDiscriminator
from hf_ganzip.training.feature_quantization import (
    FQ_PRESETS,
    FQConfig,
    add_feature_quantizers,
    remove_feature_quantizers,
)

from ..conftest import reopened, tiny_biggan_discriminator, tiny_discriminator, tiny_ugatit_discriminator
from .conftest import near


class TestPlaces:
    CASES = pytest.mark.parametrize(
        "make, paths",
        [
            (tiny_biggan_discriminator, ("blocks.0.0", "blocks.1.0")),
            (tiny_discriminator, ("b16", "b8")),
            (tiny_ugatit_discriminator, ("model.5", "model.8")),
        ],
    )

    @CASES
    def test_continuous_feed_changes_no_logit_and_removal_leaves_no_trace(self, make, paths):
        model = make()
        inputs, _ = example_inputs(model)
        plain, state, config = model(*inputs).logits, set(model.state_dict()), dict(model.config)
        add_feature_quantizers(model, {path: FQConfig(4, preset="official") for path in paths})
        losses = []
        for layer in model.codebooks.values():
            layer.register_forward_hook(lambda layer, args, output: losses.append(output.loss))
        output = model(*inputs)
        assert torch.equal(output.logits, plain)
        assert len(losses) == 2 and all(each.shape == (2,) and each.min() > 0 for each in losses)
        near(output.quantization_loss.detach(), sum(losses).detach(), 1e-5)
        output.quantization_loss.sum().backward()
        assert next(model.parameters()).grad.abs().sum() > 0 and set(model.state_dict()) > state
        remove_feature_quantizers(model)
        again = model(*inputs)
        assert torch.equal(again.logits, plain) and again.quantization_loss is None
        assert set(model.state_dict()) == state and {**config, "feature_quantizers": None} == dict(model.config)
        with pytest.raises(ValueError, match="no feature quantizers"):
            remove_feature_quantizers(model)

    @CASES
    def test_quantized_feed_saves_and_restores(self, make, paths, tmp_path):
        model = make()
        options = {"num_codes": 4, "warmup_steps": 0, "anneal_steps": 0, "settle_steps": 0}
        add_feature_quantizers(model, dict.fromkeys(paths, options))
        inputs, _ = example_inputs(model)
        model.train()(*inputs)
        expected = model.eval()(*inputs)
        found = reopened(model, tmp_path)(*inputs)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.quantization_loss, expected.quantization_loss)

    def test_a_copy_has_quantizers_of_its_own(self):
        model = tiny_biggan_discriminator()
        add_feature_quantizers(model, {"blocks.0.0": FQConfig(4, preset="official")})
        other = copy.deepcopy(model).train()
        before = model.codebooks["blocks/0/0"].embed.clone()
        other(*example_inputs(other)[0])
        assert torch.equal(model.codebooks["blocks/0/0"].embed, before)
        assert not torch.equal(other.codebooks["blocks/0/0"].embed, before)

    OFFICIAL = {  # preset -> class and name of the discriminator, its options, channels at the places
        "biggan-cifar10": (BigGANDiscriminator, "cifar10", {}, [256] * 4),
        "biggan-cifar100": (BigGANDiscriminator, "cifar100", {}, [256] * 4),
        "tac-gan-cifar100": (BigGANDiscriminator, "cifar100-tac", {}, [256] * 4),
        "biggan-imagenet-64": (BigGANDiscriminator, "imagenet-64", {}, [256]),
        "biggan-imagenet-128": (BigGANDiscriminator, "imagenet-128", {"channel_base": 64}, [64, 128, 256, 512]),
        "stylegan2-ffhq": (StyleGAN2Discriminator, "ffhq-256-small", {}, [512, 512]),
        "ugatit-global": (UGATITDiscriminator, "global", {}, [128, 256, 512]),
    }

    @pytest.mark.parametrize("preset", sorted(FQ_PRESETS))
    def test_official_places_fit_the_official_discriminators(self, preset):
        cls, name, options, dims = self.OFFICIAL[preset]
        with torch.device("meta"):
            model = cls.from_preset(name, **options)
            add_feature_quantizers(model, preset)
        assert [layer.dim for layer in model.codebooks.values()] == dims

    def test_wrong_places(self):
        model = tiny_biggan_discriminator()
        with pytest.raises(ValueError, match="no modules 'blocks.9', 'x'"):
            add_feature_quantizers(model, {"blocks.9": FQConfig(4), "x": FQConfig(4)})
        with pytest.raises(ValueError, match="no preset 'y'"):
            add_feature_quantizers(model, "y")
        add_feature_quantizers(model, {"blocks.0.0": FQConfig(4)})
        with pytest.raises(ValueError, match="already"):
            add_feature_quantizers(model, {"blocks.0.0": FQConfig(4)})
