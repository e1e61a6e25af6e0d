# SPDX-License-Identifier: Apache-2.0
"""Scales: one per tensor, output channel or group; offsets and float16."""

import copy
import math

import pytest
import torch
from torch import nn

import hf_ganzip as gz

from ..conftest import refused, reopened, run, tiny_unet


@pytest.mark.parametrize(
    "kind, channels, view, sizes, group_size, scales",
    [
        (nn.Conv2d, (3, 5), (5, 27), (5, 1), None, 5),
        (nn.ConvTranspose2d, (3, 5), (3, 5, 9), (1, 5, 1), None, 5),
        (nn.Conv2d, (4, 6), (6, 3, 12), (6, 3, 1), 12, 18),
        (nn.ConvTranspose2d, (4, 3), (4, 3, 9), (1, 3, 1), 18, 6),  # groups stay within an output channel
    ],
)
def test_every_output_channel_and_every_group_has_its_scale(kind, channels, view, sizes, group_size, scales):
    layer = kind(*channels, 3)
    with torch.no_grad():
        layer.weight.view(view).mul_(torch.logspace(-4, 4, math.prod(sizes)).view(sizes))
    model = nn.Sequential(layer)
    options = {"granularity": "group", "group_size": group_size} if group_size else {"granularity": "channel"}
    report = gz.quantize_(model, "linear", bits=8, **options)
    assert report.layers[0].sqnr_db > 40
    assert model[0].weight_scale.shape == (scales, 1)
    assert model[0].packed_layout.axis == (1 if kind is nn.ConvTranspose2d else 0)


class TestGroups:
    @pytest.mark.parametrize(
        "length, size, groups, note",
        [
            (256, 128, 2, None),
            (64, 128, 1, "groups of 64 (128 does not divide 64)"),  # in_channels of Flux
            (96, 128, 1, "groups of 96 (128 does not divide 96)"),
            (20, 128, 1, "groups of 20 (128 does not divide 20)"),
            (12, 128, 1, "one scale per channel (128 does not divide 12)"),
            (160, 128, 2, "groups of 80 (128 does not divide 160)"),
            (24, 12, 2, None),  # below sixteen, groups are as small as asked and never smaller
            (20, 12, 1, "one scale per channel (12 does not divide 20)"),
        ],
    )
    def test_layers_that_groups_do_not_divide_have_smaller_ones_or_none(self, length, size, groups, note):
        model = nn.Sequential(nn.Linear(length, 4), nn.Linear(384, 4))  # one that both sizes divide
        layers = gz.quantize_(model, bits=4, granularity="group", group_size=size, headroom=0).layers
        assert layers[0].note == note
        assert len(model[0].weight_scale) == model[0].packed_layout.rows == 4 * groups

    def test_the_note_of_more_bits_and_of_smaller_groups_are_one(self):
        model = nn.Sequential(nn.Linear(64, 4), nn.Linear(256, 2048), nn.Linear(2048, 64))
        layers = gz.quantize_(model, bits=8, granularity="group", headroom=0.02).layers
        assert layers[0].skipped == "sensitive (headroom)" and layers[0].note is None
        layers = gz.quantize_(model, bits=5, granularity="group", headroom=0.001, requantize=True).layers
        assert layers[0].note == "sensitive (headroom); groups of 64 (128 does not divide 64)"

    def test_a_folder_of_mixed_groups_is_restored(self, tmp_path):
        model = tiny_unet()
        report = gz.quantize_(model, bits=4, granularity="group", group_size=64)
        assert any("groups of" in (layer.note or "") for layer in report.layers)
        assert torch.equal(run(reopened(model, tmp_path)), run(model))

    def test_only_where_no_layer_can_have_groups_it_is_an_error(self):
        model = nn.Sequential(nn.Linear(12, 4), nn.Linear(17, 4))
        with refused(model, "group_size 16 or a smaller .*; set granularity 'channel'; nothing was"):
            gz.quantize_(model, granularity="group", group_size=16)


def test_asymmetric_rows_may_lie_far_from_zero():
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight.add_(torch.linspace(5, 9, 8)[:, None])
    sqnr = {}
    for symmetric in (True, False):
        model = nn.Sequential(copy.deepcopy(layer))
        report = gz.quantize_(model, "linear", bits=4, granularity="channel", symmetric=symmetric)
        sqnr[symmetric] = report.layers[0].sqnr_db
        assert report.layers[0].bytes_after == 64 * 8 // 2 + 8 * 4 * (1 if symmetric else 2)
    assert sqnr[False] > sqnr[True] + 20


def test_float16_scales_take_half_the_bytes_and_fall_back_where_they_would_overflow():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(64, 8))
    with torch.no_grad():
        model[1].weight.mul_(1e8)
    report = gz.quantize_(model, bits=4, granularity="channel", scale_dtype="float16")
    assert [layer.bytes_after for layer in report.layers] == [256 + 16, 256 + 32]
    assert model[0].weight_scale.dtype == torch.float16 and model[1].weight_scale.dtype == torch.float32
    assert all(layer.sqnr_db > 10 for layer in report.layers)
