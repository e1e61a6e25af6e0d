# SPDX-License-Identifier: Apache-2.0
"""Values of single methods; what holds for all of them is in tests/test_contracts.py."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ganzip.quantization.methods import ACIQ, Linear
from hf_ganzip.quantization.methods.aciq import CONSTANTS, clipping_constants
from hf_ganzip.quantization.methods.linear import round_to_codes


GOLDEN = Path(__file__).parents[1] / "golden"

# Optimal thresholds (Gauss, Laplace) as published for ACIQ, as in the paper's code base, and for the true error.
CONSTANT_TABLE = {
    2: [(1.478183, 2.331529), (1.710635, 2.830683), (1.224006, 2.000000)],
    3: [(1.804893, 3.045288), (2.151593, 3.897229), (1.952309, 3.486401)],
    4: [(2.192279, 4.003786), (2.559136, 5.028640), (2.473879, 4.819915)],
    5: [(2.577336, 5.082521), (2.936201, 6.204766), (2.898728, 6.098038)],
    6: [(2.944512, 6.232117), (3.286914, 7.413126), (3.270115, 7.358589)],
    7: [(3.290762, 7.427004), (3.615114, 8.645620), (3.607461, 8.617835)],
    8: [(3.616913, 8.652650), (3.924035, 9.896760), (3.920500, 9.882653)],
}


def sqnr(rows, codes, scale):
    return 10 * math.log10(rows.square().sum() / (rows - codes.double() * scale.double()).square().sum())


@pytest.mark.parametrize("bits, expected", [(2, [-1, -1, 0, 0, 0, 0, 1, 1]), (3, [-3, -2, -2, -1, 0, 1, 2, 3])])
def test_linear_rounds_to_nearest_with_ties_to_even(bits, expected):
    codes, scale = Linear()(torch.tensor([[-1, -0.6, -0.5, -0.2, 0, 0.49, 0.51, 1]]), bits)
    assert codes.tolist() == [expected]
    assert scale.item() == pytest.approx(1 / (2 ** (bits - 1) - 1))


@pytest.mark.parametrize(
    "lowest, expected",
    [(None, [-1, -1, -1, 0, 1, 1, 1]), (-2, [-2, -2, -1, 0, 1, 1, 1])],
    ids=["symmetric", "asymmetric"],
)
def test_clamp_variants(lowest, expected):
    codes, _ = round_to_codes(
        torch.tensor([[-3, -1.6, -1.4, -0.4, 0.6, 1.4, 3]]), torch.tensor([[1.0]]), 2, lowest=lowest
    )
    assert codes.tolist() == [expected]


@pytest.mark.parametrize("bits", range(2, 9))
def test_clipping_constants(bits):
    for family, expected in zip(CONSTANTS, CONSTANT_TABLE[bits]):
        assert clipping_constants(bits, family) == pytest.approx(expected, abs=2e-6)


def test_paper_thresholds_match_the_reference():
    weights = load_file(GOLDEN / "quantizers.io.safetensors")
    expected = json.loads((GOLDEN / "quantizers.json").read_text())["aciq"]
    assert len(expected) == 12
    for key, threshold in expected.items():
        name, bits = key.split(".")
        rows = weights[f"{name}.w"].reshape(1, -1)
        assert ACIQ().threshold(rows, int(bits)).item() == pytest.approx(threshold, rel=1e-6), key


@pytest.mark.parametrize(
    "bits, gauss, laplace", [(2, 7.21, 5.78), (3, 13.29, 10.81), (4, 18.90, 15.62), (8, 40.54, 35.18)]
)
def test_exact_constants_reach_the_densities_own_error(bits, gauss, laplace):
    levels = (torch.arange(500_000, dtype=torch.float64) + 0.5) / 500_000  # quantiles: no sampling noise in the tails
    normal = (torch.erfinv(2 * levels - 1) * math.sqrt(2))[None]
    exponential = (-(levels - 0.5).sign() * torch.log1p(-2 * (levels - 0.5).abs()))[None]
    method = ACIQ(constants="exact", sigma="std", selection="error", clamp="symmetric")
    assert sqnr(normal, *method(normal, bits)) == pytest.approx(gauss, abs=0.1)
    assert sqnr(exponential, *method(exponential, bits)) == pytest.approx(laplace, abs=0.1)


def test_rows_are_independent():
    rows = torch.randn(5, 200) * torch.tensor([0.01, 1, 100, 3, 0]).view(-1, 1)
    together = ACIQ()(rows, 4)
    for i in range(len(rows)):
        codes, scale = ACIQ()(rows[i : i + 1], 4)
        assert torch.equal(codes[0], together[0][i])
        assert scale[0] == pytest.approx(together[1][i], rel=1e-5)


def test_clipping_beats_linear_on_heavy_tails():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 20_000, generator=generator) ** 3
    for bits in (2, 3, 4):
        assert sqnr(rows.double(), *ACIQ()(rows, bits)) > sqnr(rows.double(), *Linear()(rows, bits)) + 2


@pytest.mark.parametrize("option", ["constants", "sigma", "selection", "clamp"])
def test_unknown_option_values_are_refused(option):
    with pytest.raises(ValueError, match=f"aciq: {option} is 'other'; allowed are"):
        ACIQ(**{option: "other"})
