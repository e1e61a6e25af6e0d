# SPDX-License-Identifier: Apache-2.0
"""Pipelines in place of a model: which networks are meant, and that nothing is half done."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

import hf_ganzip as gz
from hf_ganzip.core.components import choose_components, network_of
from hf_ganzip.evaluation.cost import measure_cost
from hf_ganzip.quantization.packed import packed_modules

from .conftest import tiny_unet
from .tiny_pipelines import build, generate


@pytest.fixture
def pipeline():
    return build("stable diffusion")


def test_components_are_chosen_and_reported_one_by_one(pipeline):
    config = gz.QuantizeConfig("linear", bits=8)
    report = gz.quantize_(pipeline, config, components=("unet", "text_encoder"))
    assert packed_modules(pipeline.unet) and packed_modules(pipeline.text_encoder)
    assert report.bytes_after == sum(each.bytes_after for each in report.values()) < report.bytes_before
    assert set(report.to_dict()) == {"unet", "text_encoder"} == set(report)
    assert str(report).splitlines()[0] == "unet" and "\ntext_encoder\n" in str(report)
    gz.set_compute_(pipeline, "packed")
    expected = generate(pipeline)
    gz.dequantize_(pipeline)
    assert not packed_modules(pipeline) and abs(generate(pipeline) - expected).max() < 1e-4
    with pytest.raises(ValueError, match="has no packed layer"):
        gz.dequantize_(pipeline)


def test_nothing_is_half_done(pipeline):
    with torch.no_grad():
        pipeline.text_encoder.get_parameter("encoder.layers.0.mlp.fc1.weight")[0] = float("nan")
    with pytest.raises(ValueError, match="text_encoder: .*NaN"):
        gz.quantize_(pipeline, components=["unet", "text_encoder"])
    assert not packed_modules(pipeline)
    with pytest.raises(ValueError, match="no network 'unett'. Did you mean 'unet'. Set components to some of 'vae'"):
        gz.quantize_(pipeline, components=["unett"])
    with pytest.raises(ValueError, match="components are those of a pipeline; a UNet2DConditionModel has none"):
        gz.quantize_(pipeline.unet, components=["unet"])


def test_verbs_of_one_network_take_the_denoiser():
    pipe = DDPMPipeline(tiny_unet(), DDPMScheduler())
    before = pipe.unet.num_parameters()
    gz.prune_(pipe, gz.PruneConfig(ratio=0.5))
    assert pipe.unet.num_parameters() < before
    gz.refine_(pipe)
    assert gz.sensitivity(pipe, bits=(4,), num_samples=1, progress=False).layers
    assert measure_cost(pipe, repeats=1, memory=False).model.parameters == pipe.unet.num_parameters()


def test_which_networks():
    denoisers = ["transformer", "transformer_2"]
    assert choose_components([*denoisers, "vae"], None, "WanPipeline") == denoisers
    assert choose_components(["network"], None, "Own") == ["network"]
    with pytest.raises(ValueError, match="Own has no denoiser among its networks 'a', 'b'. Set components"):
        choose_components(["a", "b"], None, "Own")
    with pytest.raises(ValueError, match="has no network none"):
        choose_components(["a"], [], "Own")
    model = tiny_unet()
    assert network_of(model) is model and network_of(None) is None
