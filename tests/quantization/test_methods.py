# SPDX-License-Identifier: Apache-2.0
"""Values of single methods; what holds for all of them is in tests/test_contracts.py."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ganzip.quantization.grid import fold_channels, round_to_codes
from hf_ganzip.quantization.methods import ACIQ, Codebook, LatentDistill, Linear, MonteCarlo, MSEClip, OutlierSplitting
from hf_ganzip.quantization.methods.aciq import CONSTANTS, clipping_constants
from hf_ganzip.quantization.methods.codebook import lloyd_levels
from hf_ganzip.quantization.methods.outlier_splitting import split_channels


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


def sqnr(rows, quantized):
    return 10 * math.log10(rows.square().sum() / (rows - quantized.values().double()).square().sum())


@pytest.mark.parametrize(
    "bits, lowest, expected",
    [
        (2, None, [-1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1]),
        (2, -2, [-2, -2, -1, -1, 0, 0, 0, 0, 1, 1, 1]),
        (3, None, [-3, -3, -3, -2, -2, -1, 0, 1, 2, 3, 3]),
    ],
)
def test_rounding_is_to_nearest_with_ties_to_even_and_clamped(bits, lowest, expected):
    rows = torch.tensor([[-3, -1.6, -1, -0.6, -0.5, -0.2, 0, 0.49, 0.51, 1, 3]])
    assert round_to_codes(rows, torch.ones(1, 1), bits, lowest=lowest).codes.tolist() == [expected]
    linear = Linear()(rows[:, 2:-1], bits)
    assert lowest or linear.codes.tolist() == [expected[2:-1]]
    assert linear.scale.item() == pytest.approx(1 / (2 ** (bits - 1) - 1))


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
    assert sqnr(normal, method(normal, bits)) == pytest.approx(gauss, abs=0.1)
    assert sqnr(exponential, method(exponential, bits)) == pytest.approx(laplace, abs=0.1)


def test_rows_are_independent():
    rows = torch.randn(5, 200) * torch.tensor([0.01, 1, 100, 3, 0]).view(-1, 1)
    together = ACIQ()(rows, 4)
    for i in range(len(rows)):
        alone = ACIQ()(rows[i : i + 1], 4)
        assert torch.equal(alone.codes[0], together.codes[i])
        assert alone.scale[0] == pytest.approx(together.scale[i], rel=1e-5)


# -- Monte Carlo quantization -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_monte_carlo_hits_by_hand(seed):
    rows = torch.tensor([[0.5, -0.25, 0.125, 0.125]])
    exact = MonteCarlo(seed=seed, samples_per_weight=2)(rows, 4)  # N = 8: every weight is a whole number of samples
    assert exact.codes.tolist() == [[4, -2, 1, 1]] and torch.equal(exact.values(), rows)
    fewer = MonteCarlo(seed=seed, samples_per_weight=1)(rows, 4)  # N = 4: one of the last two is hit
    assert fewer.codes.tolist() in ([[2, -1, 1, 0]], [[2, -1, 0, 1]])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_monte_carlo_keeps_the_sum_and_stays_in_range(bits):
    rows = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    found = MonteCarlo()(rows, bits)
    expected = rows.abs().double()
    torch.testing.assert_close(found.values().double().abs().sum(1), expected.sum(1), rtol=1e-6, atol=0)
    hits = expected / found.scale.double()
    assert ((found.codes.abs() - hits).abs() < 1 + 1e-4).all(), "hits are floor or ceil of N p"
    assert found.codes.abs().max() == 2 ** (bits - 1) - 1, "N is the largest that fits"


def test_monte_carlo_is_unbiased():
    rows = torch.rand(1, 200, generator=torch.Generator().manual_seed(0))
    found = [MonteCarlo(seed=seed, samples_per_weight=0.5)(rows, 8).values() for seed in range(400)]
    mean = torch.stack(found).mean(0)
    assert (mean - rows).abs().max() < 0.15 and abs(float((mean - rows).mean())) < 1e-3


@pytest.mark.parametrize(
    "bits, per_weight, zeros, expected", [(2, 0.20, 0.80, -3.3), (3, 0.59, 0.47, 5.1), (4, 1.27, 0.24, 11.8)]
)
def test_monte_carlo_on_a_gaussian(bits, per_weight, zeros, expected):
    """At 2 bits it is worse than setting all weights to zero; the values vary with the largest of the weights."""
    rows = torch.randn(1, 600_000, generator=torch.Generator().manual_seed(0)).double()
    found = MonteCarlo()(rows, bits)
    assert sqnr(rows, found) == pytest.approx(expected, abs=0.6)
    assert float(found.codes.abs().sum()) / rows.numel() == pytest.approx(per_weight, rel=0.1)
    assert float((found.codes == 0).double().mean()) == pytest.approx(zeros, abs=0.04)


# -- outlier channel splitting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gauss", "laplace"])
@pytest.mark.parametrize("ratio", ["0.01", "0.05"])
def test_splitting_matches_the_reference(name, ratio):
    tensors = load_file(GOLDEN / "quantizers.io.safetensors")
    copies = json.loads((GOLDEN / "quantizers.json").read_text())["ocs"]
    weight = tensors[f"{name}.w"].flatten(2)
    split, sources = split_channels(weight, float(ratio))
    assert sources.tolist() == copies[f"{name}.{ratio}"]
    assert torch.equal(split, tensors[f"{name}.ocs{ratio}"].flatten(2))
    for bits in (3, 4):
        step = split.abs().max() / (2 ** (bits - 1) - 1)
        aware, sources = split_channels(weight, float(ratio), quarter_step=step / 4)
        assert sources.tolist() == copies[f"{name}.{ratio}.{bits}.grid"]
        torch.testing.assert_close(aware, tensors[f"{name}.ocs{ratio}.{bits}.grid"].flatten(2), rtol=1e-6, atol=1e-7)


def test_splitting_by_hand():
    weight = torch.tensor([[4.0, 0.9]])
    found = OutlierSplitting()(weight, 3)
    assert found.scale.item() == pytest.approx(2 / 3)
    folded = fold_channels(found.values()[:, :, None], found.sources)[:, :, 0]
    torch.testing.assert_close(folded, torch.tensor([[4.0, 2 / 3]]))
    torch.testing.assert_close(Linear()(weight, 3).values(), torch.tensor([[4.0, 4 / 3]]))


def test_grid_aware_halves_round_to_what_the_whole_rounds_to():
    weight = torch.randn(20, 50, 9, generator=torch.Generator().manual_seed(0))
    for expand_ratio in (0.02, 0.5):  # some channels are split twice
        found = OutlierSplitting(expand_ratio=expand_ratio).quantize_channels(weight, 4, 1)
        count = 50 + len(found.sources)
        folded = fold_channels(found.codes.view(20, count, 9).float(), found.sources)
        whole = torch.round(weight / found.scale)
        assert torch.equal(folded, whole)


def test_splitting_a_channel_twice_names_the_original():
    weight = torch.tensor([[8.0, 1, 1, 1]])[:, :, None]
    split, sources = split_channels(weight, 0.5)
    assert sources.tolist() == [0, 0]
    torch.testing.assert_close(fold_channels(split, sources), weight)


# -- clipping by search and codebooks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits, midrise, lloyd_max", [(2, 9.25, 9.30), (3, 14.27, 14.62), (4, 19.38, 20.22)])
def test_searches_reach_the_optima_of_a_gaussian(bits, midrise, lloyd_max):
    rows = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)).double()
    assert sqnr(rows, MSEClip(levels="midrise")(rows, bits)) == pytest.approx(midrise, abs=0.06)
    assert sqnr(rows, MSEClip()(rows, bits)) >= sqnr(rows, MSEClip(levels="midtread")(rows, bits)) - 1e-9
    assert sqnr(rows, Codebook()(rows, bits)) == pytest.approx(lloyd_max, abs=0.06)


def test_lloyd_levels_of_few_values_are_these_values():
    levels = lloyd_levels(torch.tensor([3.0, -1, -1, 3, 7, 3]), 2)
    assert set(levels.tolist()) <= {-1.0, 3.0, 7.0} and {-1.0, 3.0, 7.0} <= set(levels.tolist())


@pytest.mark.parametrize(
    "kind, option, value",
    [
        *((ACIQ, option, "x") for option in ("constants", "sigma", "selection", "clamp")),
        *((MSEClip, "levels", "x"), (Codebook, "normalize", "x"), (MonteCarlo, "samples_per_weight", 0)),
        *((OutlierSplitting, "expand_ratio", 0), (LatentDistill, "moment_weight", -1)),
        *((LatentDistill, "steps", 0), (LatentDistill, "batch_size", 0), (LatentDistill, "tune", "half")),
    ],
)
def test_wrong_options(kind, option, value):
    with pytest.raises(ValueError, match=f"{option} (is )?{value!r}.*; allowed are"):
        kind(**{option: value})
