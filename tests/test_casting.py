# SPDX-License-Identifier: Apache-2.0
"""Packed models are cast like others: what they compute with changes, codes and scales stay as they are."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline

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


def quantized(model, bits=4, **options):
    gz.quantize_(model, bits=bits, **options)
    return model


@pytest.fixture(params=[tiny_unet, tiny_generator, text_encoder], ids=["unet", "generator", "encoder"])
def packed(request):
    return quantized(request.param(), bits=3, granularity="channel", scale_dtype="float32")


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


@pytest.mark.parametrize(
    "model, compress_, output",
    [(tiny_unet, gz.quantize_, run), (text_encoder, gz.quantize_, encode), (tiny_unet, gz.prune_, run)],
)
def test_a_cast_model_is_one_that_loads_in_that_dtype(model, compress_, output, tmp_path):
    model = model()
    compress_(model)
    model.save_pretrained(tmp_path / "float32")
    loaded = type(model).from_pretrained(tmp_path / "float32", torch_dtype=torch.bfloat16)
    expected = output(loaded)
    model.to(torch.bfloat16)
    assert expected.dtype == torch.bfloat16 and torch.equal(output(model), expected)
    model.save_pretrained(tmp_path / "bfloat16")
    again = type(model).from_pretrained(tmp_path / "bfloat16", torch_dtype=torch.bfloat16)
    assert torch.equal(output(again), expected)


def test_a_cast_that_fails_leaves_the_model_as_it_was():
    model = quantized(tiny_unet())
    expected = run(model)
    with pytest.raises(RuntimeError, match="a packed layer cannot be cast to torch.float8_e4m3fn"):
        model.conv_in.to(torch.float8_e4m3fn)
    with pytest.raises(TypeError):
        model.to(torch.int8)
    assert model.is_quantized and torch.equal(run(model), expected)


@pytest.mark.parametrize("make", [tiny_unet, text_encoder], ids=["diffusers", "transformers"])
def test_models_of_other_quantizers_are_still_refused(make):
    gz.dequantize_(dequantized := quantized(make()))  # which lets ours be cast
    model = make()
    model.is_quantized = True
    for method in ("gptq", None):
        model.quantization_method = method
        with pytest.raises(ValueError, match="is not supported for quantized model"):
            model.half()
    assert dequantized.half().dtype == torch.float16


@pytest.mark.filterwarnings(
    "ignore:.torch_dtype. is deprecated:FutureWarning"
)  # `dtype` is unknown to older diffusers
def test_pipelines_are_cast(tmp_path):
    pipe = build("stable diffusion")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        quantized(part)
    pipe.save_pretrained(tmp_path / "packed")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "packed", safety_checker=None)
    options = {"safety_checker": None, "torch_dtype": torch.bfloat16}
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "packed", **options)
    assert pipe.to("cpu", torch.bfloat16).dtype == torch.bfloat16
    assert (generate(pipe) == generate(loaded)).all()
