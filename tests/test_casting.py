# SPDX-License-Identifier: Apache-2.0
"""Packed models are cast like others: what they compute with changes, codes and scales stay as they are."""

import copy

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.quantization.packed import packed_modules

from .conftest import run, tiny_generator, tiny_unet
from .test_transformers import encode, text_encoder
from .tiny_pipelines import build, generate


CASTS = {
    "to": lambda model: model.to(torch.float16),
    "to with a device": lambda model: model.to("cpu", torch.float16),
    "to by keyword": lambda model: model.to(device="cpu", dtype=torch.float16),
    "half": lambda model: model.half(),
}


@pytest.fixture(params=[tiny_unet, tiny_generator, text_encoder], ids=["unet", "generator", "encoder"])
def packed(request):
    model = request.param()
    gz.quantize_(model, bits=3, granularity="channel", scale_dtype="float32")
    return model


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("loaded", [False, True], ids=["in memory", "loaded"])
def test_casting_leaves_codes_and_scales(packed, cast, loaded, tmp_path):
    if loaded:
        packed.save_pretrained(tmp_path)
        packed = type(packed).from_pretrained(tmp_path)
    before = copy.deepcopy(packed)
    assert cast(packed) is packed and packed.is_quantized
    assert packed.dtype == torch.float16 and not any(p.dtype == torch.float32 for p in packed.parameters())
    for name, module in packed_modules(packed).items():
        assert module.digest() == before.get_submodule(name).digest() and module.weight_scale.dtype == torch.float32
        assert torch.equal(module.weight, before.get_submodule(name).weight.half()), name
    packed.float()  # nothing was lost in the packed layers
    for name, module in packed_modules(packed).items():
        assert torch.equal(module.weight, before.get_submodule(name).weight), name


@pytest.mark.parametrize("model, output", [(tiny_unet, run), (text_encoder, encode)], ids=["unet", "encoder"])
def test_a_cast_model_is_one_that_loads_in_that_dtype(model, output, tmp_path):
    model = model()
    gz.quantize_(model, bits=4)
    model.save_pretrained(tmp_path / "float32")
    loaded = type(model).from_pretrained(tmp_path / "float32", torch_dtype=torch.bfloat16)
    expected = output(loaded)
    model.to(torch.bfloat16)
    assert expected.dtype == torch.bfloat16 and torch.equal(output(model), expected)
    model.save_pretrained(tmp_path / "bfloat16")
    assert torch.equal(
        output(type(model).from_pretrained(tmp_path / "bfloat16", torch_dtype=torch.bfloat16)), expected
    )


def test_a_cast_that_fails_leaves_the_model_as_it_was():
    model = tiny_unet()
    gz.quantize_(model, bits=4)
    expected = run(model)
    with pytest.raises(RuntimeError, match="a packed layer cannot be cast to torch.float8_e4m3fn"):
        model.conv_in.to(torch.float8_e4m3fn)
    with pytest.raises(TypeError):
        model.to(torch.int8)
    assert model.is_quantized and torch.equal(run(model), expected)


@pytest.mark.parametrize("make", [tiny_unet, text_encoder], ids=["diffusers", "transformers"])
def test_models_of_other_quantizers_are_still_refused(make):
    gz.quantize_(make(), bits=4)  # which lets ours be cast
    model = make()
    model.is_quantized = True
    for method in ("gptq", None):
        model.quantization_method = method
        with pytest.raises(ValueError, match="is not supported for quantized model"):
            model.half()
    gz.dequantize_(dequantized := quantized(make()))
    assert dequantized.half().dtype == torch.float16


def quantized(model):
    gz.quantize_(model, bits=4)
    return model


@pytest.mark.filterwarnings(
    "ignore:.torch_dtype. is deprecated:FutureWarning"
)  # `dtype` is unknown to older diffusers
def test_pipelines_are_cast_and_become_others(tmp_path):
    pipe = build("stable diffusion")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        quantized(part)
    pipe.save_pretrained(tmp_path / "packed")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "packed", safety_checker=None)
    loaded = StableDiffusionPipeline.from_pretrained(
        tmp_path / "packed", safety_checker=None, torch_dtype=torch.bfloat16
    )
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet and other.dtype == torch.float32
    assert pipe.to("cpu", torch.bfloat16).dtype == torch.bfloat16
    assert (generate(pipe) == generate(loaded)).all()
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe, torch_dtype=torch.float16)
    assert other.dtype == pipe.dtype == torch.float16  # they share their parts


def test_our_pipelines_are_cast():
    pipe = gz.GANPipeline(quantized(tiny_generator())).to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16 and len(pipe(batch_size=2).images) == 2


def test_pruned_models_are_cast(tmp_path):
    model = tiny_unet()
    gz.prune_(model, gz.PruneConfig("random", 0.5))
    model.save_pretrained(tmp_path)
    assert UNet2DModel.from_pretrained(tmp_path).to(torch.bfloat16).dtype == torch.bfloat16
