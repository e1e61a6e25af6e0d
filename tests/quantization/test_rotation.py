# SPDX-License-Identifier: Apache-2.0
"""Rows of weights rotated before they are rounded."""

import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.buffers import pack_rows, unpack_rows
from hf_ganzip.quantization.grid import QuantizedRows
from hf_ganzip.quantization.layout import PackedLayout
from hf_ganzip.quantization.methods import LatentDistill
from hf_ganzip.quantization.packed import packed_modules
from hf_ganzip.quantization.packing import unpack
from hf_ganzip.quantization.rotation import rotated, rotated_curvature, unrotated

from ..conftest import tiny_generator, tiny_unet


LEARNED = LatentDistill(base="mse_clip", steps=1, batch_size=2, progress=False)


@pytest.mark.parametrize(("length", "block"), [(4, 4), (24, 8), (64, 64), (1152, 32), (1152, 128)])
def test_it_is_a_rotation_to_a_power_of_two_and_back(length, block):
    weight = torch.randn(7, length, dtype=torch.float64)
    turned = rotated(weight, block)
    torch.testing.assert_close(unrotated(turned, block), weight)
    matrix = rotated(torch.eye(length, dtype=torch.float64), block)
    size = matrix.square().sum(1)
    torch.testing.assert_close(matrix @ matrix.t(), torch.diag(size))
    assert size.unique().numel() == 1 and 0.5 <= float(size[0]) <= 1
    curvature = torch.randn(length, length, dtype=torch.float64)
    curvature = curvature @ curvature.t()
    error = torch.randn(3, length, dtype=torch.float64)
    other = rotated(error, block)
    expected = ((error @ curvature) * error).sum()
    torch.testing.assert_close(((other @ rotated_curvature(curvature, block)) * other).sum(), expected)


def test_stored_models_rely_on_these_signs():
    row = unrotated(torch.eye(128)[:1], 128) * 8
    signs = "".join("+" if value > 0 else "-" for value in row[0, :32].tolist())
    assert signs == "++-++-----+----++-++--++-+--+--+"


def test_parts_come_back_with_the_same_bits():
    weight = torch.randn(64, 1152)
    whole = unrotated(weight, 128)
    for size in (1, 5, 64):
        assert torch.equal(torch.cat([unrotated(part, 128) for part in weight.split(size)]), whole)


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
@pytest.mark.parametrize("name", ("linear", "codebook"))
def test_levels_are_rotated_back_exactly_by_one_product_under_any_precision(name, bits):
    """The same as sums in a fixed order, scaled afterwards; codebooks of 8 bits have too many levels for a grid."""
    layer = nn.Linear(96, 24)
    gz.quantize_(nn.Sequential(layer), name, bits=bits, granularity="channel", hadamard=True, headroom=0)
    layout, buffers = layer.packed_layout, layer.packed_buffers()
    assert layout.rotation == 32 and layout.scaled_last is (name == "linear" or bits < 8)
    codes = unpack(buffers["weight_codes"], bits, 96 * 24).view(24, 96).int()
    levels = codes - 2 ** (bits - 1) + layout.level_offset
    levels = buffers["weight_codebook"].float()[codes] if name == "codebook" else levels
    scale = buffers["weight_scale"].float()
    expected = unrotated(levels, 32) * scale if layout.scaled_last else unrotated(levels * scale, 32)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(layer.weight, expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_folders_rotated_in_larger_blocks_before_scaling_still_unpack():
    """The form of the first version: blocks of 128, codebooks in half precision."""
    levels = torch.randn(8).half().sort().values
    codes = torch.randint(-4, 4, (6, 256)).to(torch.int8)
    rows = QuantizedRows(codes, torch.rand(6, 1) + 0.5, codebook=levels, rotation=128)
    assert not rows.scaled_last(6)
    layout = PackedLayout.from_dict({"bits": 3, "shape": [6, 256], "rows": 6, "codebook": True, "rotation": 128})
    expected = unrotated(levels.float()[rows.codes.int() + 4] * rows.scale, 128)
    assert torch.equal(unpack_rows(pack_rows(rows, layout), layout), expected)
    assert torch.equal(rows.weight((6, 256)), expected)


@pytest.mark.parametrize("change", ({"rotation": 0}, {"rows": 48}, {"offset": True}, {"scaled_last": 1}))
def test_layouts_that_cannot_be_scaled_last_are_refused(change):
    fitting = {"bits": 3, "shape": [6, 256], "rows": 6, "rotation": 32, "scaled_last": True}
    assert PackedLayout.from_dict(fitting).to_dict() == fitting
    with pytest.raises(ValueError, match="scaled_last"):
        PackedLayout.from_dict(fitting | change)


def test_an_outlier_is_spread_over_its_row_and_takes_no_bytes():
    found = {}
    for hadamard in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(256, 256))
        with torch.no_grad():
            model[0].weight.normal_()[:, 7] = 30.0
        found[hadamard] = gz.quantize_(model, "linear", preset="best", bits=3, headroom=0, hadamard=hadamard)
    assert found[True].layers[0].sqnr_db > found[False].layers[0].sqnr_db + 1.5
    assert found[True].bytes_after == found[False].bytes_after


@pytest.mark.parametrize(
    ("make", "options", "rotates"),
    [
        (tiny_unet, {"bits": 3}, True),
        (tiny_unet, {"bits": 2}, False),
        (tiny_unet, {"bits": 4}, False),
        (tiny_unet, {"bits": 3, "hadamard": False}, False),
        (tiny_unet, {"bits": 3, "method": "codebook"}, False),
        (tiny_unet, {"bits": 3, "activations": "int8"}, False),
        (tiny_generator, {"bits": 3}, False),
        (tiny_unet, {"bits": 2, "method": LEARNED}, False),
        (tiny_generator, {"bits": 4, "method": LEARNED}, True),
        (tiny_generator, {"bits": 5, "method": LEARNED}, False),
        (tiny_generator, {"bits": 3, "hadamard": True}, True),
    ],
)
def test_denoisers_of_three_bits_and_learned_generators_up_to_four_are_rotated_by_default(make, options, rotates):
    model = make()
    gz.quantize_(model, **options)
    found = [layer.packed_layout.rotation for layer in packed_modules(model).values()]
    assert any(found) is rotates


def test_layers_of_odd_rows_are_not_rotated_and_the_report_says_so():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3))
    plain = copy.deepcopy(model)
    notes = [layer.note for layer in gz.quantize_(model, bits=4, hadamard=True, headroom=0).layers]
    assert notes == ["not rotated (4 does not divide 27)", None]
    gz.quantize_(plain, bits=4, headroom=0)
    assert torch.equal(model[0].weight, plain[0].weight) and not torch.equal(model[1].weight, plain[1].weight)
    assert [each.packed_layout.rotation for each in model] == [0, 8]
