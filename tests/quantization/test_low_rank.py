# SPDX-License-Identifier: Apache-2.0
"""A low rank in 16 bits beside the codes of a weight."""

import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.buffers import unpack_rows
from hf_ganzip.quantization.grid import add_low_rank_
from hf_ganzip.quantization.low_rank import low_rank
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import refused
from ..test_contracts import method  # noqa: F401  a fixture: every method
from ..test_integration import wide_unet


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


@pytest.mark.parametrize("layer", [nn.Linear(96, 64), nn.Conv2d(32, 48, 3), nn.ConvTranspose2d(48, 64, 3)], ids=str)
def test_a_layer_computes_with_codes_and_low_rank(layer):
    layer = copy.deepcopy(layer)
    weight = layer.weight.detach().clone()
    (report,) = gz.quantize_(nn.Sequential(layer), bits=3, svd_rank=1, headroom=0).layers
    layout, stored = layer.packed_layout, layer.packed_buffers()
    assert layout.rank == 1 and layer.weight_up.dtype == layer.weight_down.dtype == torch.float16
    plain = type(layout)(**layout.to_dict() | {"shape": layout.shape, "rank": 0})
    codes = unpack_rows({name: stored[name] for name in plain.buffers}, plain)
    codes, got = (each.transpose(0, 1) if layout.axis else each for each in (codes, layer.weight))
    expected = codes.flatten(1) + layer.weight_up.float() @ layer.weight_down.float()
    torch.testing.assert_close(got.flatten(1), expected)
    error = (layer.weight - weight).square().sum() / weight.square().sum()
    assert report.sqnr_db == pytest.approx(-10 * float(error.log10()), abs=1e-3)
    assert report.bytes_after == layout.packed_bytes == sum(tensor.nbytes for tensor in stored.values())
    digest = layer.digest()
    assert layer.to(torch.bfloat16).to(torch.float32).digest() == digest  # the factors, too, are not cast


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


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_layers_have_no_rank_that_costs_too_much_or_is_larger_than_they_are():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 8))
    with refused(model, "svd_rank is 9 for 1, 8 x 256 as a matrix; allowed are 0 to 8"):
        gz.quantize_(model, bits=4, overrides={"1": {"svd_rank": 9}})
    with refused(model, "svd_rank is 300, which is larger .*; 0, 256 x 256 as a matrix, has for 8"):
        gz.quantize_(model, bits=4, svd_rank=300)
    by_name = copy.deepcopy(model)
    gz.quantize_(by_name, bits=4, overrides={"1": {"svd_rank": 8}})  # asked for by name: at any price
    large, small = gz.quantize_(model, bits=4, svd_rank=4, headroom=0).layers
    assert large.note is None and small.note == "no low rank (more than 0 would cost over a bit per weight)"
    assert [layer.packed_layout.rank for layer in (*model, by_name[1])] == [4, 0, 8]
