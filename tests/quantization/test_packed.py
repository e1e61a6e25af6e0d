# SPDX-License-Identifier: Apache-2.0
"""Packed layers: what they compute, how they are copied, cast, offloaded and loaded, what they refuse."""

import copy
import pickle

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.grid import to_values
from hf_ganzip.quantization.packed import PackedWeightMixin, packed_modules

from ..conftest import run, tiny_generator, tiny_unet


LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3), (2, 3, 8)),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_layer_computes_with_its_dequantized_weight(name, granularity, compute):
    layer, shape = copy.deepcopy(LAYERS[name])
    reference = copy.deepcopy(layer)
    model = nn.Sequential(layer)
    gz.quantize_(model, bits=3, granularity=granularity, compute=compute)
    assert isinstance(model[0], type(reference)) and isinstance(model[0], PackedWeightMixin)
    with torch.no_grad():
        reference.weight.copy_(model[0].weight)
    x = torch.randn(shape)
    assert torch.equal(model(x), reference(x))


def test_deepcopy_and_pickle_keep_packed_layers():
    model = tiny_unet()
    gz.quantize_(model, bits=4)
    assert torch.equal(run(copy.deepcopy(model)), run(model))
    layer = model.conv_in
    restored = pickle.loads(pickle.dumps(layer))
    assert torch.equal(restored.weight, layer.weight) and type(restored) is type(layer)


@pytest.mark.processor
def test_compute_modes_give_equal_outputs():
    model = tiny_generator()
    gz.quantize_(model, bits=4)
    expected = run(model)
    gz.set_compute_(model, "packed")
    assert torch.equal(run(model), expected)
    assert all(module._dequantized is None for module in packed_modules(model).values())
    with pytest.raises(ValueError, match="allowed are packed, dequantized"):
        gz.set_compute_(model, "fast")


def test_unpacking_in_parts_is_unpacking_at_once(monkeypatch):
    """Every layout: scales per tensor, channel, group and shared by channels; offsets, codebooks, split and transposed
    channels, bfloat16.
    """
    base, base_t = torch.randn(6, 5, 3, 3), torch.randn(5, 6, 3, 3)
    layers = []
    for bits in range(2, 9):
        for options in (
            {},
            {"granularity": "channel", "scale_dtype": "float16"},
            {"granularity": "group", "group_size": 15, "symmetric": False},
            {"method": "codebook", "granularity": "channel"},
            {"method": "outlier_splitting"},
        ):
            for kind, weight in ((nn.Conv2d, base), (nn.ConvTranspose2d, base_t)):
                layer = kind(5, 6, 3)
                layer.weight = nn.Parameter(weight.clone())
                gz.quantize_(nn.Sequential(layer), **{"bits": bits, **options})
                layers += [layer, copy.deepcopy(layer).to(torch.bfloat16)]
    expected = [layer.weight for layer in layers]
    for chunk in (1, 100):  # one output channel at a time, and two
        monkeypatch.setattr("hf_ganzip.quantization.buffers._CHUNK", chunk)
        for layer, weight in zip(layers, expected):
            assert torch.equal(layer.weight, weight) and layer.weight.stride() == weight.stride()


@pytest.mark.parametrize("bits", (2, 3, 5, 6))
def test_levels_of_a_codebook_are_looked_up_exactly(bits):
    """Many and few, an even number and an odd one; signed zeros and what is no number stay as they are."""
    codebook = torch.randn(2**bits).half()
    codebook[0], codebook[1] = -0.0, float("nan")
    for count in (2**14, 2**14 + 1, 6):
        codes = torch.randint(0, 2**bits, (1, count), dtype=torch.uint8)
        found = to_values(codes, None, codebook=codebook)
        assert torch.equal(found.view(torch.int32), codebook.float()[codes.int()].view(torch.int32))


def test_split_channels_are_folded_back():
    layer = nn.Conv2d(8, 4, 3)
    model = nn.Sequential(layer)
    shape, size = layer.weight.shape, layer.weight.nbytes
    report = gz.quantize_(model, "outlier_splitting", bits=4)
    assert model[0].weight.shape == shape and model[0].weight_sources.dtype == torch.int16
    assert (report.layers[0].bytes_before, report.layers[0].bytes_after) == (size, 4 * 9 * 9 // 2 + 4 + 2)
    model.load_state_dict(model.state_dict())


def test_layerwise_casting_is_refused_with_the_reason():
    model = tiny_unet()
    gz.quantize_(model, bits=4)
    with pytest.raises(RuntimeError, match="layerwise casting would destroy its scales"):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_gives_the_same_output(compute, offload_type):
    model = tiny_unet()
    gz.quantize_(model, bits=4, compute=compute)
    expected = run(model)
    options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    model.enable_group_offload(torch.device("cpu"), offload_type=offload_type, **options)
    assert torch.equal(run(model), expected)


def test_loading_another_state_changes_what_is_computed():
    models = [nn.Sequential(nn.Linear(8, 8)) for _ in range(2)]
    x = torch.randn(3, 8)
    for model in models:
        gz.quantize_(model, bits=4)
        model(x)
    models[0].load_state_dict(models[1].state_dict())
    assert torch.equal(models[0](x), models[1](x))
