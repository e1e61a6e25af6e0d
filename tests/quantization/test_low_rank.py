# SPDX-License-Identifier: Apache-2.0
"""A low rank in 16 bits beside the codes of a weight."""

import copy

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

import hf_ganzip as gz
from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.quantization.buffers import unpack_rows
from hf_ganzip.quantization.grid import add_low_rank_
from hf_ganzip.quantization.low_rank import low_rank
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import refused
from ..test_contracts import method  # noqa: F401  a fixture: every method
from ..test_integration import wide_unet


LAYERS = {
    "linear": nn.Linear(96, 64),
    "conv": nn.Conv2d(32, 48, 3),
    "transposed": nn.ConvTranspose2d(48, 64, 3),
}


def product(factors):
    return factors[0].double() @ factors[1].double()


def with_directions(shape, count, strength=5.0):
    """Gaussian weights with a few strong directions."""
    generator = torch.Generator().manual_seed(1)
    up, down = torch.randn(shape[0], count, generator=generator), torch.randn(count, shape[1], generator=generator)
    return torch.randn(*shape, generator=generator) + strength * up @ down


# -- the factors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (200, 300), (600, 150)])
def test_it_is_the_nearest_matrix_of_its_rank(shape):
    matrix = with_directions(shape, 2)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    best = (left[:, :2] * values[:2]) @ right[:2]
    found = low_rank(matrix, 2)
    assert [factor.dtype for factor in found] == [torch.float16] * 2
    assert [tuple(factor.shape) for factor in found] == [(shape[0], 2), (2, shape[1])]
    assert torch.dist(product(found), best) < 1e-3 * best.norm()


def test_signs_and_repetitions_make_no_difference():
    matrix = with_directions((200, 300), 3)
    up, down = low_rank(matrix, 3)
    assert torch.equal(up, low_rank(matrix.clone(), 3)[0]) and torch.equal(down, low_rank(matrix.clone(), 3)[1])
    assert bool((up.gather(0, up.abs().argmax(0, keepdim=True)) > 0).all())
    torch.manual_seed(5)  # the global generator plays no part, and is not drawn from
    before = torch.get_rng_state()
    assert torch.equal(up, low_rank(matrix, 3)[0]) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("matrix", [torch.zeros(40, 50), torch.ones(1, 1), torch.full((30, 20), -3.0)])
def test_degenerate_matrices_are_defined(matrix):
    torch.testing.assert_close(product(low_rank(matrix, 1)).float(), matrix, rtol=2e-3, atol=0)


def test_what_float16_cannot_hold_is_left_to_the_codes():
    assert low_rank(torch.full((8, 8), 1e30), 1) is None
    model = nn.Sequential(nn.Linear(96, 96))
    with torch.no_grad():
        model[0].weight.mul_(1e12)
    layer = gz.quantize_(model, bits=4, svd_rank=2).layers[0]
    assert "no low rank (beyond float16)" in layer.note and layer.sqnr_db > 15
    assert model[0].packed_layout.rank == 0


def test_parts_and_threads_add_the_same_bits():
    weight = torch.randn(64, 333)
    up, down = low_rank(with_directions((64, 333), 4), 4)
    whole = weight.clone()
    add_low_rank_(whole, up, down)
    for size in (1, 7, 64):
        parts = weight.clone()
        for rows, some in zip(parts.split(size), up.split(size)):
            add_low_rank_(rows, some, down)
        assert torch.equal(parts, whole)
    exact = weight.double()
    for column, row in zip(up.double().t(), down.double()):
        exact = (exact + column[:, None] * row).float().double()  # products are exact, sums round once
    assert torch.equal(exact.float(), whole)


# -- in layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ("packed", "dequantized"))
@pytest.mark.parametrize("name", ["linear", "conv", "transposed"])
def test_a_layer_computes_with_codes_and_low_rank(name, compute):
    model = nn.Sequential(copy.deepcopy(LAYERS[name]))
    weight = model[0].weight.detach().clone()
    report = gz.quantize_(model, bits=3, svd_rank=1, compute=compute, headroom=0)
    layer, layout = model[0], model[0].packed_layout
    assert layout.rank == 1 and layer.weight_up.dtype == layer.weight_down.dtype == torch.float16
    plain = type(layout)(**layout.to_dict() | {"shape": layout.shape, "rank": 0})
    codes = unpack_rows({name: layer.packed_buffers()[name] for name in plain.buffers}, plain)
    moved = codes.transpose(0, 1) if layout.axis else codes
    expected = moved.flatten(1) + layer.weight_up.float() @ layer.weight_down.float()
    got = layer.weight.transpose(0, 1) if layout.axis else layer.weight
    torch.testing.assert_close(got.flatten(1), expected)
    error = float((layer.weight - weight).square().sum() / weight.square().sum())
    assert report.layers[0].sqnr_db == pytest.approx(-10 * torch.tensor(error).log10().item(), abs=1e-3)
    stored = sum(tensor.nbytes for tensor in layer.packed_buffers().values())
    assert report.layers[0].bytes_after == layout.packed_bytes == stored
    unpacked = weight.nbytes if compute == "dequantized" else 0
    assert held_bytes(model) == stored + layer.bias.nbytes + unpacked


@pytest.mark.parametrize("hadamard", [False, True])
def test_every_method_has_it_also_beside_a_rotation(method, hadamard):  # noqa: F811
    model = wide_unet()
    report = gz.quantize_(model, method, bits=4, hadamard=hadamard, svd_rank=1, preset="best", headroom=0)
    layouts = [layer.packed_layout for layer in packed_modules(model).values()]
    assert any(layout.rank and bool(layout.rotation) == hadamard for layout in layouts)
    assert all(layer.sqnr_db > 5 for layer in report.quantized)


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": False}, {"granularity": "group", "group_size": 16}, {"granularity": "tensor"}]
)
def test_strong_directions_leave_the_codes(options):
    model = nn.Sequential(nn.Linear(256, 256))
    with torch.no_grad():
        model[0].weight.copy_(with_directions((256, 256), 2))
    plain = gz.quantize_(copy.deepcopy(model), bits=4, headroom=0, **options).layers[0].sqnr_db
    assert gz.quantize_(model, bits=4, headroom=0, svd_rank=2, **options).layers[0].sqnr_db > plain + 10


def test_casting_leaves_the_factors_alone():
    model = wide_unet()
    gz.quantize_(model, bits=4, svd_rank=1)
    before = {name: layer.digest() for name, layer in packed_modules(model).items()}
    model.to(torch.bfloat16).to(torch.float32)
    assert before == {name: layer.digest() for name, layer in packed_modules(model).items()}
    gz.dequantize_(model)
    assert not packed_modules(model) and not any("weight_up" in name for name in model.state_dict())


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_layers_that_it_would_cost_too_much_have_none_and_the_report_says_so():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 8))
    large, small = gz.quantize_(model, bits=4, svd_rank=4, headroom=0).layers
    assert large.note is None and small.note == "no low rank (more than 0 would cost over a bit per weight)"
    assert (model[0].packed_layout.rank, model[1].packed_layout.rank) == (4, 0)


def test_a_rank_larger_than_a_layer_is_refused_by_name():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 8))
    with refused(model, "svd_rank is 9 for 1, 8 x 256 as a matrix; allowed are 0 to 8"):
        gz.quantize_(model, bits=4, overrides={"1": {"svd_rank": 9}})
    with refused(model, "svd_rank is 300, which is larger .*; 0, 256 x 256 as a matrix, has for 8"):
        gz.quantize_(model, bits=4, svd_rank=300)
    gz.quantize_(model, bits=4, overrides={"1": {"svd_rank": 8}})  # asked for by name: at any price
    assert model[1].packed_layout.rank == 8


def test_weights_that_are_no_numbers_are_named(tmp_path):
    model = wide_unet()
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "resnets" in name)
    with torch.no_grad():
        model.get_submodule(name).weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=f"weights with NaN or infinity: {name}; nothing was changed"):
        gz.quantize_(model, bits=4, svd_rank=1)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name}.weight holds NaN or infinity"):
        UNet2DModel.from_pretrained(tmp_path, quantization_config=gz.GanzipConfig(bits=4, svd_rank=1))
