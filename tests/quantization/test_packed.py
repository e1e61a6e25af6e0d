# SPDX-License-Identifier: Apache-2.0
"""Packed layers: what they compute, the memory that is lent to their weights, how they are copied, cast and loaded."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization import buffers
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
        monkeypatch.setattr(buffers, "_CHUNK", chunk)
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


def test_layerwise_casting_is_refused_with_the_reason():
    model = tiny_unet()
    gz.quantize_(model, bits=4)
    with pytest.raises(RuntimeError, match="layerwise casting would destroy its scales"):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def test_loading_another_state_changes_what_is_computed():
    models = [nn.Sequential(nn.Linear(8, 8)) for _ in range(2)]
    x = torch.randn(3, 8)
    for model in models:
        gz.quantize_(model, bits=4)
        model(x)
    models[0].load_state_dict(models[1].state_dict())
    assert torch.equal(models[0](x), models[1](x))


# -- memory that is lent to unpacked weights -------------------------------------------------------------------------


def two_layers():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    gz.quantize_(model, bits=4)
    return model


def test_memory_goes_from_one_weight_to_the_next():
    addresses = {layer.weight.data_ptr() for layer in (*two_layers(), *two_layers())}
    assert len(addresses) == 1
    assert addresses.pop() % 64 == 0  # kernels differ for memory that is not aligned


def test_nothing_that_lives_is_overwritten():
    """The weight itself, a view of it, and what a backward pass keeps."""
    first, second = two_layers()
    expected = first.weight.clone()
    for kept in (first.weight, first.weight.transpose(0, 1)[1:].detach()):
        before = kept.clone()
        assert torch.equal(second.weight, second.dequantized_weight())
        assert torch.equal(kept, before)
        del kept
    x = torch.randn(1, 8, 7, 7, requires_grad=True)
    output = first(x)
    assert not torch.equal(second.weight, expected)
    (slope,) = torch.autograd.grad(output.sum(), x)
    (exact,) = torch.autograd.grad(nn.functional.conv2d(x, expected, first.bias).sum(), x)
    torch.testing.assert_close(slope, exact)


def test_large_weights_and_other_threads_have_their_own_memory(monkeypatch):
    first, second = two_layers()
    here, found = first.weight, []
    thread = threading.Thread(target=lambda: found.append(second.weight))
    thread.start()
    thread.join()
    assert found[0].data_ptr() != here.data_ptr() and torch.equal(found[0], second.weight)
    del here
    monkeypatch.setattr(buffers, "_KEPT", 4 * first.weight.numel() - 1)
    one = first.weight
    assert one.data_ptr() != second.weight.data_ptr() and torch.equal(one, first.dequantized_weight())
