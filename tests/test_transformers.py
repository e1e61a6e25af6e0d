# SPDX-License-Identifier: Apache-2.0
"""Text encoders: quantized while loading, in memory, within pipelines; restored bit for bit."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models import AutoencoderKL
from diffusers.quantizers import PipelineQuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

import hf_ganzip as gz
from hf_ganzip.core.components import all_networks
from hf_ganzip.quantization.packed import packed_modules

from .conftest import same_conditions


IDS = torch.arange(12).view(2, 6)


def text_encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=64, max_position_embeddings=12, **sizes)).eval()


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
def test_quantized_while_loading_and_restored(folder, tmp_path, method, granularity, dtype):
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


@pytest.mark.processor
def test_in_memory_gives_the_same_model_and_can_be_undone(folder, tmp_path):
    loaded = CLIPTextModel.from_pretrained(folder, quantization_config=gz.GanzipConfig(bits=3))
    model = CLIPTextModel.from_pretrained(folder)
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3))
    assert torch.equal(encode(model), encode(loaded)) and report == loaded.hf_quantizer.report
    model.save_pretrained(tmp_path / "packed")
    assert torch.equal(encode(CLIPTextModel.from_pretrained(tmp_path / "packed")), encode(model))
    expected = encode(model)
    gz.dequantize_(model)
    model.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert torch.equal(encode(CLIPTextModel.from_pretrained(tmp_path / "plain")), expected)


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


@pytest.mark.process
@pytest.mark.parametrize("loader", ["AutoModel", "CLIPTextModel"])
def test_a_fresh_process_without_the_import_raises_rather_than_loads_noise(packed, tmp_path, loader):
    code = f"import sys; from transformers import {loader} as M; M.from_pretrained(sys.argv[1]); print('loaded')"
    command = [sys.executable, "-c", code, tmp_path / "packed"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode != 0 and "loaded" not in result.stdout
    assert "Unknown quantization type, got hf_ganzip" in result.stderr and "MISMATCH" in result.stderr


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


@pytest.mark.process
def test_a_fresh_process_restores_it(packed, tmp_path):
    code = (
        "import sys, torch, hf_ganzip; from transformers import AutoModel; "
        "m = AutoModel.from_pretrained(sys.argv[1]).eval()\n"
        "with torch.no_grad(): torch.save(m(torch.arange(12).view(2, 6)).last_hidden_state, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "packed", tmp_path / "out.pt"], check=True, timeout=200)
    assert torch.equal(torch.load(tmp_path / "out.pt"), encode(packed))


@pytest.mark.parametrize("while_loading", [False, True])
def test_embeddings_that_encoder_and_decoder_share_are_restored(while_loading, tmp_path):
    """T5 ties the tables of its stacks, which transformers wants to be parameters."""
    torch.manual_seed(0)
    config, tokens = gz.QuantizeConfig(bits=4, embeddings=True), torch.arange(8)[None]
    model = T5EncoderModel(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()
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
    model = T5EncoderModel(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    model.save_pretrained(tmp_path / "full")
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


def tiny_pipeline(folder):
    torch.manual_seed(0)
    vocabulary = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = UNet2DConditionModel(
        **blocks,
        sample_size=8,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, **types, latent_channels=4, sample_size=16)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def generate(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    with same_conditions(*all_networks(pipeline).values()):
        return pipeline(
            "a b", num_inference_steps=2, generator=generator, output_type="np", height=16, width=16
        ).images


class TestPipelines:
    @pytest.fixture
    def saved(self, tmp_path):
        tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "pipeline")
        return tmp_path / "pipeline"

    @pytest.mark.parametrize("how", ["quant_mapping", "quant_backend"])
    def test_components_are_quantized_and_restored(self, saved, tmp_path, how):
        if how == "quant_mapping":
            mapping = {"unet": gz.GanzipConfig(bits=4), "text_encoder": gz.GanzipConfig("codebook", bits=6)}
            config = PipelineQuantizationConfig(quant_mapping=mapping)
        else:
            kwargs = {"method": "aciq", "bits": 4}
            config = PipelineQuantizationConfig(
                quant_backend="hf_ganzip", quant_kwargs=kwargs, components_to_quantize=["unet", "text_encoder", "vae"]
            )
        pipeline = StableDiffusionPipeline.from_pretrained(saved, quantization_config=config, safety_checker=None)
        assert packed_modules(pipeline.unet) and packed_modules(pipeline.text_encoder)
        assert bool(packed_modules(pipeline.vae)) == (how == "quant_backend")
        expected = generate(pipeline)
        pipeline.save_pretrained(tmp_path / "packed")
        index = json.loads((tmp_path / "packed" / "model_index.json").read_text())
        assert index["unet"] == ["diffusers", "UNet2DConditionModel"] and index["text_encoder"][0] == "transformers"
        restored = DiffusionPipeline.from_pretrained(tmp_path / "packed", safety_checker=None)
        assert (generate(restored) == expected).all()
