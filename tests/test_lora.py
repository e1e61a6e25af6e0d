# SPDX-License-Identifier: Apache-2.0
"""Adapters on packed models: trained, saved, loaded again; merged after unpacking."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model

import hf_ganzip as gz
from hf_ganzip.quantization.fused import unfuse_
from hf_ganzip.quantization.packed import packed_modules

from .conftest import changed, run, state_of
from .test_transformers import encode, text_encoder
from .tiny_diffusion import conditional_unet


WEIGHTS = {"prefix": None, "weight_name": "pytorch_lora_weights.safetensors"}


@pytest.fixture
def folder(tmp_path):
    """A packed UNet, saved."""
    unet = conditional_unet()
    gz.quantize_(unet, bits=4)
    unet.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def unet(folder):
    return UNet2DConditionModel.from_pretrained(folder)


def lora(*targets, **options):
    """Random adapters."""
    return LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **options)


def forward(unet):
    generator = torch.Generator().manual_seed(0)
    sample, states = (torch.randn(size, generator=generator) for size in ((2, 4, 8, 8), (2, 3, 12)))
    return unet(sample, 7, states).sample


@torch.no_grad()
def predict(unet):
    return forward(unet)


def trained(unet):
    """Give the model an adapter and train a step, in which packed layers and other parameters do not move."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    before = state_of(unet)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    forward(unet).square().mean().backward()
    optimizer.step()
    moved = changed(before, unet)
    assert moved and all("lora_" in name for name in moved)


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
def test_an_adapter_is_trained_saved_and_loaded_again(unet, folder, tmp_path, compute):
    gz.set_compute_(unet, compute)
    plain = predict(unet)
    trained(unet)
    unet.save_lora_adapter(tmp_path / "lora")
    again = UNet2DConditionModel.from_pretrained(folder)
    gz.set_compute_(again, compute)
    again.load_lora_adapter(tmp_path / "lora", **WEIGHTS)
    assert torch.equal(predict(again), predict(unet)) and not torch.allclose(predict(again), plain)
    again.disable_lora()
    assert torch.equal(predict(again), plain)


def digests(unet):
    return {name.replace(".base_layer", ""): layer.digest() for name, layer in packed_modules(unet).items()}


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("rank", [0, 1])
def test_fusing_leaves_the_codes_alone_and_is_taken_back_bit_by_bit(compute, rank):
    unet = conditional_unet()
    overrides = {"*.attn1.to_q": {"svd_rank": rank}}
    gz.quantize_(unet, bits=4, compute=compute, overrides=overrides)
    plain, before = predict(unet), digests(unet)
    unet.add_adapter(lora("to_q", "conv1", "conv_shortcut"))
    expected = predict(unet)
    unet.fuse_lora()
    fused = predict(unet)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5)
    unpacked = copy.deepcopy(unet)
    gz.dequantize_(unpacked)
    assert torch.equal(predict(unpacked), fused)  # what is fused stays in unpacked weights
    assert digests(unet) == before and not torch.allclose(fused, plain)
    unet.unfuse_lora()
    assert torch.equal(predict(unet), expected)
    unet.unload_lora()
    assert torch.equal(predict(unet), plain) and digests(unet) == before


@pytest.mark.filterwarnings("ignore:Already f:UserWarning")  # of peft, at every second adapter
def test_adapters_are_fused_one_on_the_other_with_a_scale(unet):
    for name in ("one", "two"):
        unet.add_adapter(lora("to_q"), name)
    unet.set_adapters("one", 0.5)
    half = predict(unet)
    unet.fuse_lora(adapter_names=["one"])
    torch.testing.assert_close(predict(unet), half, rtol=1e-4, atol=1e-5)
    unet.set_adapters(["one", "two"], [0.5, 1.0])
    both = predict(unet)  # adapters beside a fused layer are not computed with
    torch.testing.assert_close(both, half, rtol=1e-4, atol=1e-5)
    unet.fuse_lora(adapter_names=["two"])
    layer = next(module for module in packed_modules(unet).values() if module.packed_fused)
    assert layer.packed_fused == (("one", 2), ("two", 2))
    unfuse_(layer, "one")
    assert layer.packed_fused == (("two", 2),)
    with pytest.raises(ValueError, match="unfuse_lora: no adapter 'one' is fused; there are two"):
        unfuse_(layer, "one")


def test_a_fused_model_is_cast_and_copied_and_counts_its_adapters(unet):
    size = sum(tensor.nbytes for tensor in unet.buffers())
    unet.add_adapter(lora("to_q"))
    unet.fuse_lora()
    fused, layer = predict(unet), next(each for each in packed_modules(unet).values() if each.packed_fused)
    assert sum(tensor.nbytes for tensor in unet.buffers()) > size
    assert torch.equal(predict(copy.deepcopy(unet)), fused)
    unet.to(torch.bfloat16).to(torch.float32)
    assert layer.weight_fused_up.dtype == torch.float32
    assert torch.equal(predict(copy.deepcopy(unet).float()), predict(unet))


def test_a_fused_model_is_not_saved_without_what_is_fused(unet, tmp_path):
    unet.add_adapter(lora("to_q"))
    unet.fuse_lora()
    unet.unload_lora()
    with pytest.raises(ValueError, match="save_pretrained: an adapter is fused into .*to_q .*unfuse_lora"):
        unet.save_pretrained(tmp_path / "fused")
    expected = predict(unet)
    gz.dequantize_(unet)
    unet.save_pretrained(tmp_path / "fused")
    assert torch.equal(predict(UNet2DConditionModel.from_pretrained(tmp_path / "fused")), expected)


@torch.no_grad()
def test_adapters_with_nan_or_more_than_a_product_are_refused(unet, folder):
    unet.add_adapter(lora("to_q"))
    next(parameter for name, parameter in unet.named_parameters() if "lora_A" in name).fill_(torch.nan)
    with pytest.raises(ValueError, match="fuse_lora: the adapter 'default' has NaN or infinity"):
        unet.fuse_lora()
    unet = UNet2DConditionModel.from_pretrained(folder)
    unet.add_adapter(lora("to_q", use_dora=True))
    expected = predict(unet)
    with pytest.raises(RuntimeError, match=r"read-only.* Call hf_ganzip.dequantize_\(model\) first"):
        unet.fuse_lora()
    assert torch.equal(predict(unet), expected)


def test_merging_goes_through_unpacked_weights(unet, tmp_path):
    trained(unet)
    expected = predict(unet)
    gz.dequantize_(unet)
    torch.testing.assert_close(predict(unet), expected)
    before = state_of(unet)
    unet.fuse_lora()
    assert any(name.endswith("to_q.base_layer.weight") for name in changed(before, unet))
    unet.unfuse_lora()
    torch.testing.assert_close(state_of(unet), before)
    unet.fuse_lora()
    unet.unload_lora()
    torch.testing.assert_close(predict(unet), expected, rtol=1e-4, atol=1e-5)
    unet.save_pretrained(tmp_path / "merged")
    merged = UNet2DConditionModel.from_pretrained(tmp_path / "merged")
    assert torch.equal(predict(merged), predict(unet))
    gz.quantize_(merged, bits=4)
    assert packed_modules(merged)


def test_a_model_with_adapters_is_not_saved_as_one_without(unet, tmp_path):
    expected = predict(unet)
    trained(unet)
    with pytest.raises(ValueError, match="packed layers were changed, .* save_lora_adapter, and call unload_lora"):
        unet.save_pretrained(tmp_path / "again")
    unet.unload_lora()
    unet.save_pretrained(tmp_path / "again")
    assert torch.equal(predict(UNet2DConditionModel.from_pretrained(tmp_path / "again")), expected)


def test_adapters_of_text_encoders(tmp_path):
    model = text_encoder()
    gz.quantize_(model, bits=4)
    model.save_pretrained(tmp_path / "small")
    plain = encode(model)
    model.add_adapter(lora("q_proj"))
    model.save_pretrained(tmp_path / "adapter")
    again = type(model).from_pretrained(tmp_path / "small")
    again.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(encode(again), encode(model)) and not torch.equal(encode(again), plain)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_a_trainer_takes_a_packed_model_with_adapters_only():
    trainer_utils = pytest.importorskip("transformers.trainer_utils")
    if not hasattr(trainer_utils, "validate_quantization_for_training"):
        pytest.skip("this transformers asks within its Trainer")
    model = text_encoder()
    gz.quantize_(model, bits=4)
    with pytest.raises(ValueError, match="attach trainable adapters"):
        trainer_utils.validate_quantization_for_training(model)
    trainer_utils.validate_quantization_for_training(get_peft_model(model, LoraConfig(target_modules=["q_proj"])))


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
def test_adapters_that_read_the_weights_compute_as_on_unpacked_ones(folder, compute):
    """DoRA divides by the norms of weight and adapter."""
    unet, unpacked = (UNet2DConditionModel.from_pretrained(folder) for _ in range(2))
    gz.set_compute_(unet, compute)
    gz.dequantize_(unpacked)
    plain = run(unet)
    for each in (unet, unpacked):
        torch.manual_seed(1)
        each.add_adapter(lora("to_q", "conv1", use_dora=True))
    assert torch.equal(run(unet), run(unpacked)) and not torch.equal(run(unet), plain)


def test_packed_weights_are_read_and_not_written(unet):
    layer = next(iter(packed_modules(unet).values()))
    before = layer.weight.clone()
    assert torch.equal(layer.weight.data.clone(), before) and (layer.weight.data + 1).add_(1).shape == before.shape
    writes = (
        lambda: layer.weight.data.add_(1),
        lambda: layer.weight.data.copy_(before),
        lambda: layer.weight.data.__setitem__(0, 1.0),
        lambda: torch.nn.init.zeros_(layer.weight.data),
        lambda: setattr(layer.weight, "data", before),
        lambda: setattr(layer.weight.data, "data", before),
    )
    for write in writes:
        with pytest.raises(RuntimeError, match=r"read-only.* Call hf_ganzip.dequantize_\(model\) first"):
            write()
    assert torch.equal(layer.weight, before)


def test_adapters_of_convolutions(unet):
    """peft makes them by the class of the layer beside which they stand: type(layer)(...)."""
    before, plain = run(unet), packed_modules(unet)
    unet.add_adapter(lora("conv1"))
    assert len(packed_modules(unet)) == len(plain) and not torch.equal(run(unet), before)
    assert all(p.requires_grad == ("lora" in name) for name, p in unet.named_parameters())
