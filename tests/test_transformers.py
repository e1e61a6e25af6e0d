# SPDX-License-Identifier: Apache-2.0
"""Text encoders: quantized while loading, in memory, within pipelines; restored bit for bit."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.quantizers import PipelineQuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPTextModel, T5EncoderModel

import hf_ganzip as gz
from hf_ganzip.core.components import all_networks
from hf_ganzip.quantization.packed import packed_modules

from .tiny_pipelines import build, clip, generate, t5


IDS = torch.arange(12).view(2, 6)


def text_encoder():
    torch.manual_seed(0)
    return clip()[1]


@torch.no_grad()
def encode(model):
    return model(IDS).last_hidden_state


@pytest.fixture
def folder(tmp_path):
    text_encoder().save_pretrained(tmp_path / "full")
    return tmp_path / "full"


@pytest.mark.processor
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "method, granularity", [("aciq", "tensor"), ("codebook", "channel"), ("outlier_splitting", "tensor")]
)
def test_quantized_while_loading_or_in_memory_restored_and_undone(folder, tmp_path, method, granularity, dtype):
    config = gz.GanzipConfig(method, bits=4, granularity=granularity)
    model = CLIPTextModel.from_pretrained(folder, quantization_config=config, dtype=dtype)
    assert len(model.hf_quantizer.report.quantized) == len(packed_modules(model)) == 12
    model.save_pretrained(tmp_path / "packed")
    saved = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert saved["quant_method"] == "hf_ganzip" and len(saved["layers"]) == 12
    for cls in (CLIPTextModel, AutoModel):
        restored = cls.from_pretrained(tmp_path / "packed", dtype=dtype)
        assert torch.equal(encode(restored), encode(model))
    assert all(parameter.requires_grad for parameter in restored.parameters())  # as after any from_pretrained
    in_memory = CLIPTextModel.from_pretrained(folder, dtype=dtype)
    report, expected = gz.quantize_(in_memory, config), encode(in_memory)
    assert torch.equal(expected, encode(model)) and report == model.hf_quantizer.report
    gz.dequantize_(in_memory)
    in_memory.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert torch.equal(encode(CLIPTextModel.from_pretrained(tmp_path / "plain", dtype=dtype)), expected)


def test_a_quantized_folder_is_not_quantized_again_while_loading(packed, tmp_path):
    with pytest.raises(ValueError, match=r"quantized already \(auto, 4 bits\); load it without quantization_config="):
        CLIPTextModel.from_pretrained(tmp_path / "packed", quantization_config=gz.GanzipConfig(bits=4))


def test_changed_codes_are_noticed(packed, tmp_path):
    file = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if tensors[name].dtype == torch.uint8)
    tensors[name][0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="packed weights differ from their digest"):
        CLIPTextModel.from_pretrained(tmp_path / "packed")


@pytest.fixture
def packed(folder, tmp_path):
    """An encoder quantized while loading, and saved in ``tmp_path / "packed"``."""
    model = CLIPTextModel.from_pretrained(folder, quantization_config=gz.GanzipConfig(bits=4))
    model.save_pretrained(tmp_path / "packed")
    return model


def test_codes_of_transformers_have_the_name_of_the_weight_in_another_shape(packed, folder, tmp_path):
    """What makes a transformers without us raise; in the same process it always knows us."""
    in_memory = CLIPTextModel.from_pretrained(folder)
    gz.quantize_(in_memory, gz.QuantizeConfig(bits=4))
    for name, each in (("loaded", packed), ("in memory", in_memory)):
        each.save_pretrained(tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        full = load_file(folder / "model.safetensors")
        assert full.keys() <= tensors.keys()
        differing = {key for key in full if tensors[key].shape != full[key].shape}
        assert differing == {f"{layer}.weight" for layer in packed_modules(packed)}
        CLIPTextModel.from_pretrained(tmp_path / name).save_pretrained(tmp_path / "again")
        assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
        assert torch.equal(encode(CLIPTextModel.from_pretrained(tmp_path / "again")), encode(packed))


@pytest.mark.parametrize("while_loading", [False, True])
def test_embeddings_that_encoder_and_decoder_share_are_restored(while_loading, tmp_path):
    """T5 ties the tables of its stacks, which transformers wants to be parameters."""
    torch.manual_seed(0)
    config, tokens = gz.QuantizeConfig(bits=4, embeddings=True), torch.arange(8)[None]
    model = t5(8)[1]
    if while_loading:
        model.save_pretrained(tmp_path / "full")
        model = T5EncoderModel.from_pretrained(tmp_path / "full", quantization_config=gz.GanzipConfig.of(config))
    else:
        gz.quantize_(model, config)
    model.save_pretrained(tmp_path / "small")
    restored = T5EncoderModel.from_pretrained(tmp_path / "small")
    assert {"shared", "encoder.embed_tokens"} <= packed_modules(restored).keys()
    with torch.no_grad():
        assert torch.equal(restored(tokens).last_hidden_state, model(tokens).last_hidden_state)


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
def test_layers_that_are_kept_in_float32_are_restored(scale_dtype, tmp_path):
    """T5 in half precision, as pipelines take it: one layer of each block stays in float32, with its scales as they
    are.
    """
    torch.manual_seed(0)
    t5(8)[1].save_pretrained(tmp_path / "full")
    model = T5EncoderModel.from_pretrained(tmp_path / "full", dtype=torch.float16).eval()
    gz.quantize_(model, gz.QuantizeConfig(bits=4, scale_dtype=scale_dtype))
    model.save_pretrained(tmp_path / "small")
    restored = T5EncoderModel.from_pretrained(tmp_path / "small", dtype=torch.float16)
    assert {name: layer.weight.dtype for name, layer in packed_modules(restored).items()} == {
        name: torch.float32 if name.endswith(".wo") else torch.float16 for name in packed_modules(model)
    }
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(restored(tokens).last_hidden_state, model(tokens).last_hidden_state)


def tiny_pipeline(_):
    """Stable Diffusion."""
    return build("stable diffusion")


def test_components_of_a_pipeline_are_quantized_by_their_own_options(tmp_path):
    build("stable diffusion").save_pretrained(tmp_path / "full")
    mapping = {"unet": gz.GanzipConfig(bits=4), "text_encoder": gz.GanzipConfig("codebook", bits=6)}
    config = PipelineQuantizationConfig(quant_mapping=mapping | {"vae": gz.GanzipConfig("aciq", bits=4)})
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "full", quantization_config=config)
    assert all(packed_modules(network) for network in all_networks(pipeline).values())
    assert pipeline.text_encoder.config.quantization_config.to_dict()["bits"] == 6
    expected = generate(pipeline)
    pipeline.save_pretrained(tmp_path / "packed")
    index = json.loads((tmp_path / "packed" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"] and index["text_encoder"][0] == "transformers"
    assert (generate(DiffusionPipeline.from_pretrained(tmp_path / "packed")) == expected).all()
