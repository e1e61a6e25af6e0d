# SPDX-License-Identifier: Apache-2.0
"""Clipped density and coverage, probabilistic precision and recall, Vendi score, Monge distance, MMD with a Gaussian
kernel.

Golden values, of the features in tests/golden/metrics.io.safetensors as float64,
`pip install seqme==0.5.1 vendi-score==0.0.3 POT==0.9.7.post1 clip-mmd==0.0.2`:

    ClippedDensity(n_neighbors=5, reference=..., embedder=..., strict=False)(...)  # seqme.metrics; ClippedCoverage
    likewise vendi.score_dual(fake, q=1), q=2, q="inf"                                      # vendi_score 3 * d *
    ot.sliced.sliced_wasserstein_distance(real, fake, projections=directions.T, p=2) ** 2  # 50 directions, see below
    mmd(real, fake)                                                                # clip_mmd.calculation; rows of
    length 1
"""

import math

import numpy as np
import pytest
import torch

from hf_ganzip.metrics import (
    clipped_density_coverage,
    gaussian_kernel_distance,
    monge_distance,
    probabilistic_precision_recall,
    vendi_score,
)
from hf_ganzip.metrics.clipped import expected_coverage


# name -> vendi of fake and real, of orders 2 and infinity; Gaussian kernel; Monge with all and with 301 of fake
GOLDEN = {
    "overlap": (
        *(23.515713768956736, 23.59630151786817, 23.046409174291117, 16.347392984825724),
        *(0.20619085589568265, 2.597937077622262, 3.155706651475353),
    ),
    "collapsed": (
        *(15.758639342702935, 15.80364727488465, 15.521519149384964, 11.904821079981723),
        *(0.016025131966301842, 24.080980188560336, 24.175109195397496),
    ),
}


@pytest.fixture
def sets(features):
    """The toy distributions, by name."""
    return {
        name: {"real": features[f"{name}.real"].double(), "generated": features[f"{name}.fake"].double()}
        for name in GOLDEN
    }


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name, sets):
    sets, (vendi, vendi_real, second, last, kernel, monge, unequal) = sets[name], GOLDEN[name]
    result = vendi_score(**sets)
    assert (result["vendi_score"], result["vendi_score_real"]) == pytest.approx((vendi, vendi_real), rel=1e-12)
    assert vendi_score(**sets, q=2)["vendi_score"] == pytest.approx(second, rel=1e-12)
    assert vendi_score(**sets, q=math.inf)["vendi_score"] == pytest.approx(last, rel=1e-12)
    # Differences of means near 1, times 1,000: 1e-16 becomes 1e-12.
    assert gaussian_kernel_distance(**sets)["gaussian_kernel_distance"] == pytest.approx(kernel, abs=1e-11)
    assert monge_distance(**sets, num_projections=50)["monge_distance"] == pytest.approx(monge, rel=1e-11)
    some = {"real": sets["real"], "generated": sets["generated"][:301]}
    assert monge_distance(**some, num_projections=50)["monge_distance"] == pytest.approx(unequal, rel=1e-11)


def test_golden_values_of_clipped_density_and_coverage(sets):
    sets = sets["overlap"]
    half = torch.cat([sets["generated"][:300], sets["generated"][300:] + 4])
    cases = {
        (0.47581012946017776, 0.415714293718338): (sets["generated"], sets["real"]),
        (0.7317284325355189, 0.9166666865348816): (sets["real"], half),
    }
    for (density, coverage), (real, generated) in cases.items():
        result = clipped_density_coverage(real=real, generated=generated)
        assert result["clipped_density"] == pytest.approx(density, rel=1e-7)  # theirs is float32
        # Theirs takes the next whole sample, ours what lies between two.
        assert 0 <= coverage - result["clipped_coverage"] <= 1 / len(generated)


def test_clipped_density_and_coverage_by_the_definition():
    real, generated, k = normal(40, 3), normal(31, 3, seed=1) * 1.5, 3
    own, across = torch.cdist(real, real), torch.cdist(real, generated)
    radii = own.sort(dim=1).values[:, k]
    clipped = radii.clamp_max(float(np.median(radii.numpy())))[:, None]
    density = ((across <= clipped).sum(0).double() / k).clamp_max(1).mean()
    density = density / (((own <= clipped).sum(0).double() - 1) / k).clamp_max(1).mean()
    covered = float(((across <= radii[:, None]).sum(1).double() / k).clamp_max(1).mean())
    result = clipped_density_coverage(real=real, generated=generated, k=k)
    assert result["clipped_density"] == pytest.approx(float(density), rel=1e-12)
    expected = np.interp(result["clipped_coverage"] * 31, np.arange(32), expected_coverage(k, 40, 31))
    assert expected == pytest.approx(covered)


def test_expected_coverage_is_that_of_uniform_points():
    """On a circle every ball of k neighbours is an interval, and the law holds exactly."""
    random, k, n, m, found = np.random.default_rng(0), 3, 30, 20, []
    for _ in range(3000):
        real, generated = random.random((n, 1)), random.random((1, m))
        own = np.sort(np.minimum(abs(real - real.T), 1 - abs(real - real.T)), axis=1)[:, k]
        across = np.minimum(abs(real - generated), 1 - abs(real - generated))
        found.append(np.minimum((across <= own[:, None]).sum(1), k).mean() / k)
    error = np.std(found) / len(found) ** 0.5
    assert expected_coverage(k, n, m)[-1] == pytest.approx(np.mean(found), abs=4 * error)
    assert error < 0.002


def test_probabilistic_values_by_the_definition():
    real, generated, k, scale = normal(30, 3), normal(25, 3, seed=1), 4, 1.2
    generated[0] = real[0]  # a copy is inside for certain
    expected = []
    for support, queries in ((real, generated), (generated, real)):
        radius = scale * torch.cdist(support, support).sort(dim=1).values[:, k].mean()
        outside = (torch.cdist(queries, support) / radius).clamp_max(1).prod(dim=1)
        expected.append(float(1 - outside.mean()))
    result = probabilistic_precision_recall(real=real, generated=generated, k=k, scale=scale)
    assert list(result.values()) == pytest.approx(expected, rel=1e-9)


def test_probabilistic_values_do_not_depend_on_the_unit_of_the_features():
    real = torch.randn(60, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generated = real + 1e-7 * real.flip(0)
    values = [probabilistic_precision_recall(real=real * unit, generated=generated * unit) for unit in (1, 2.0**-14)]
    assert values[0] == values[1]


def test_probabilistic_values_are_one_on_the_same_set():
    real = normal(300, 4)
    assert set(probabilistic_precision_recall(real=real, generated=real.clone()).values()) == {1.0}
    copies = {"real": real[:1].repeat(3, 1), "generated": real[:1].repeat(2, 1)}
    assert set(probabilistic_precision_recall(**copies).values()) == {1}


def test_vendi_counts_what_differs():
    x = torch.eye(6, dtype=torch.float64)
    result = vendi_score(real=x, generated=x[[0, 0, 0, 1, 1, 1]] * 7)  # lengths do not matter
    assert (result["vendi_score"], result["vendi_score_real"]) == pytest.approx((2, 6))
    orders = [vendi_score(real=x, generated=x[[0, 0, 0, 1]], q=q)["vendi_score"] for q in (0.1, 1, 2, math.inf)]
    assert orders == sorted(orders, reverse=True) and orders[-1] == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "function, options, message",
    [
        (clipped_density_coverage, {"k": 90}, "k is 90 and real has 90 rows"),
        (probabilistic_precision_recall, {"scale": 0}, "scale is 0; allowed are positive"),
        (vendi_score, {"q": -1}, "q is -1; allowed are positive"),
        (monge_distance, {"num_projections": 0}, "num_projections is 0"),
        (gaussian_kernel_distance, {"sigma": math.nan}, "sigma is nan; allowed are positive"),
    ],
)
def test_options_out_of_range_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(real=normal(90, 4), generated=normal(90, 4, seed=1), **options)


@pytest.mark.parametrize("function", [vendi_score, gaussian_kernel_distance])
def test_rows_without_a_direction_are_refused(function):
    x = normal(9, 4)
    x[3] = 0
    with pytest.raises(ValueError, match="generated has 1 rows of zeros"):
        function(real=normal(9, 4), generated=x)
