# SPDX-License-Identifier: Apache-2.0
"""The models of diffusers besides UNet2DModel."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoModel, DiTTransformer2DModel, UNet2DConditionModel

import hf_ganzip as gz
from hf_ganzip.families import family_of
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import run


pytestmark = pytest.mark.processor


def conditional_unet():
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def transformer():
    return DiTTransformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, norm_num_groups=4
    )


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )


MODELS = {"conditional unet": conditional_unet, "transformer": transformer, "autoencoder": autoencoder}


@torch.no_grad()
def output(model):
    args, kwargs = family_of(model).example_inputs(model)
    return model.eval()(*args, return_dict=False, **kwargs)[0]


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("name", MODELS)
def test_every_projection_and_convolution_is_packed_and_restored(name, compute, tmp_path):
    model = MODELS[name]()
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3, compute=compute))
    assert all(
        "last block" in layer.skipped or "norm" in layer.skipped or "embedding" in layer.skipped
        for layer in report.skipped
    )
    assert any("last block" in layer.skipped for layer in report.skipped)
    attention = [layer.name for layer in report.quantized if ".to_q." in layer.name or ".to_out.0." in layer.name]
    assert len(attention) >= 2
    expected = output(model)
    model.save_pretrained(tmp_path)
    for cls in (type(model), AutoModel):
        assert torch.equal(output(cls.from_pretrained(str(tmp_path))), expected)


def test_learned_rounding_runs_on_a_conditional_unet():
    model = conditional_unet()
    options = {"steps": 2, "batch_size": 2, "base": "mse_clip", "progress": False}
    gz.quantize_(model, gz.QuantizeConfig("latent_distill", method_options=options, granularity="channel"))
    assert packed_modules(model) and torch.isfinite(output(model)).all()


def test_a_lora_works_on_packed_weights_and_cannot_be_merged():
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import BaseTunerLayer

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    plain = run(model)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert not torch.equal(run(model), plain)
    layer = next(m for m in model.modules() if isinstance(m, BaseTunerLayer) and packed_modules(m))
    with pytest.raises(RuntimeError, match="merging a LoRA.*dequantize_"):
        layer.merge()
