# SPDX-License-Identifier: Apache-2.0
"""Which layers need more bits, for models of a family and for others."""

import fnmatch
import statistics

import pytest
from torch import nn

import hf_ganzip as gz
from hf_ganzip.families import FAMILIES, family_of, sensitive_layers
from hf_ganzip.families.sensitive import sensitive_by_name

from ..conftest import TINY, tiny_unet
from ..test_transformers import text_encoder
from ..tiny_diffusion import ALL, conditional_unet, flux, transformer, wan


def layers(model):
    """Names of what is quantized without any rule."""
    config = gz.QuantizeConfig(skip_last_block=False, headroom=0, embeddings=True)
    return list(gz.quantization.plan.plan_quantization(model, config).settings)


def matched(model, patterns):
    return [name for name in layers(model) if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


@pytest.fixture(scope="module")
def tiny_models():
    return [build() for build in {**TINY, **ALL}.values()]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_pattern_is_of_some_layer_and_most_layers_are_of_none(name, tiny_models):
    models = [model for model in tiny_models if FAMILIES[name] is family_of(model)]
    if name == "UNet2DConditionModel":
        models += [conditional_unet(num_class_embeds=4)]
    patterns = sensitive_layers(models[0])
    missing = {pattern for pattern in patterns if not any(matched(model, [pattern]) for model in models)}
    shared = {  # patterns for several classes
        "UNet2DModel": {"add_embedding.*", "encoder_hid_proj*"},
        "SD3Transformer2DModel": {"x_embedder"},
        "FluxTransformer2DModel": {"pos_embed.proj"},
    }
    assert missing == shared.get(name, set())
    assert len(matched(models[0], patterns)) <= len(layers(models[0])) / 2


@pytest.mark.parametrize("make", [tiny_unet, conditional_unet, transformer, flux, wan])
def test_names_alone_find_what_a_family_knows(make):
    """But for the first and the last level of a UNet, which are told by what was measured."""
    model = make()
    levels = ["down_blocks.0.resnets.*", "up_blocks.1.resnets.*"] if hasattr(model, "up_blocks") else []
    measured = set(matched(model, levels))
    known = set(matched(model, sensitive_layers(model)))
    assert measured <= known and known - measured <= set(sensitive_by_name(model))
    assert bool(levels) == bool(measured) and not measured & set(sensitive_by_name(model))


def test_a_model_of_no_family():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q, self.caption_projection, self.norm1 = nn.Linear(4, 4), nn.Linear(4, 8), nn.LayerNorm(4)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry, self.t_embedder = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))
            self.blocks, self.norm = nn.ModuleList([Block(), Block()]), nn.LayerNorm(4)
            self.exit = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    projections = ("blocks.0.caption_projection", "blocks.1.caption_projection")
    expected = ("entry", "t_embedder.0", "t_embedder.2", *projections, "exit")
    model = Model()
    assert sensitive_layers(model) == expected
    gz.quantize_(model)
    assert sensitive_layers(model) == expected
    assert sensitive_layers(nn.ReLU()) == ()
    assert "encoder.layers.1.mlp.fc2" in sensitive_layers(text_encoder())


def test_what_is_sensitive_in_the_bundled_models_is_so():
    """Errors at 3 bits per byte saved, of the layers named and of the others."""
    config = gz.QuantizeConfig("codebook", granularity="channel", skip_last_block=False)
    for name in ("stylegan2-fashion-mnist", "ddpm-fashion-mnist"):
        model = gz.load_model(name)
        report = gz.sensitivity(model, (3,), num_samples=2, config=config, progress=False)
        named = set(matched(model, sensitive_layers(model)))
        per_byte = {layer.name: layer.errors[3] / layer.weights for layer in report.layers}
        of = [
            statistics.median_low(per_byte[each] for each in per_byte if (each in named) == chosen)
            for chosen in (True, False)
        ]
        assert of[0] > 5 * of[1], name
