# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.metrics import hyperplanes, lsh, lsh_precision_recall, warn_if_unpaired
from hf_ganzip.metrics.hyperplanes import default_hyperplanes, draw_hyperplanes, hash_keys


def float64_keys(features, normals, offsets):
    sides = (features.double() @ normals.t() + offsets) >= 0
    return (sides.long() * 2 ** torch.arange(len(normals))).sum(1)


@settings(max_examples=40, deadline=None)
@given(
    dim=st.integers(1, 300), bits=st.integers(1, 40), seed=st.integers(0, 999), scale=st.sampled_from([1e-12, 1, 1e12]),
    shift=st.sampled_from([0, 1, 1e4]), block=st.sampled_from([1, 1000, 2**22]),
)  # fmt: skip
def test_keys_are_those_of_float64_for_any_block_size(dim, bits, seed, scale, shift, block):
    normals, offsets = (part[0] for part in draw_hyperplanes(dim, bits, 1, seed))
    generator = torch.Generator().manual_seed(seed)
    features = scale * (torch.randn(50, dim, generator=generator) + shift)
    # half of the points lie on a plane up to the rounding of float32
    distances = (features.double() @ normals[0] + offsets[0]) / normals[0].square().sum()
    features[25:] = (features.double() - distances[:, None] * normals[0])[25:].float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyperplanes, "_BLOCK", block)
        assert torch.equal(hash_keys(features, normals, offsets), float64_keys(features, normals, offsets))


def test_reduced_matmul_precision_moves_no_bit():
    features = torch.randn(3000, 64)
    planes = draw_hyperplanes(64, 16, 2, 0)
    expected = hash_keys(features, *planes)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(hash_keys(features, *planes), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_draws_are_columns_and_nested_planes_are_masked_keys():
    features = torch.randn(200, 5)
    keys = hash_keys(features, *draw_hyperplanes(5, 20, 3, 7))
    assert keys.shape == (200, 3)
    for draw in range(3):
        normals, offsets = hyperplanes.hyperplanes(5, 9, seed=7 + draw)
        assert torch.equal(keys[:, draw] & (2**9 - 1), hash_keys(features, normals, offsets))


OF_BASE_2 = [(2, 2, 1), (2, 4, 2), (2, 8191, 12), (2, 8192, 13), (2, 10_000, 13), (2, 100_000, 16)]
OF_OTHERS = [(10, 999, 2), (10, 1000, 3), (math.e, 20, 2), (math.e, 21, 3), (4, 3, 1)]


@pytest.mark.parametrize("base, n, expected", OF_BASE_2 + OF_OTHERS)
def test_default_number_of_hyperplanes_is_the_exact_floor_of_the_logarithm(base, n, expected):
    assert default_hyperplanes(n, base) == expected
    x = torch.randn(n, 2)
    if n >= 4:
        result = lsh_precision_recall(real=x[: n // 2], generated=x[n // 2 :], log_base=base, draws=1, k=None)
        assert result["num_hyperplanes"] == expected


def test_centring_subtracts_the_mean_of_the_reference():
    real, generated = torch.randn(300, 6) + 20, torch.randn(200, 6) + 20
    mean = real.double().mean(0)
    centred = lsh_precision_recall(real=real, generated=generated, center="reference", draws=2)
    assert centred == lsh_precision_recall(real=real, generated=generated, center=mean, draws=2)
    by_hand = lsh_precision_recall(real=real.double() - mean, generated=generated.double() - mean, draws=2)
    values = [name for name in by_hand if name.startswith("lsh")]
    assert {n: centred[n] for n in values} == {n: by_hand[n] for n in values} and centred["centered"]
    plain = lsh_precision_recall(real=real, generated=generated, draws=2)
    assert not plain["centered"] and plain["lsh_precision"] > centred["lsh_precision"]


def test_centre_must_fit():
    x = torch.randn(10, 3)
    with pytest.raises(ValueError, match="center has 2 entries; the features have dimension 3"):
        lsh_precision_recall(real=x, generated=x, center=[0, 0])
    with pytest.raises(ValueError, match="allowed are None, 'reference'"):
        lsh_precision_recall(real=x, generated=x, center="mean")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="center has NaN or infinity"):
            lsh_precision_recall(real=x, generated=x, center=[0, value, 0])
        broken = x.clone()
        broken[1, 2] = value
        with pytest.raises(ValueError, match="real has NaN or infinity in 1 of"):
            lsh_precision_recall(real=broken, generated=x, center="reference")


def test_unpaired_results_are_warned_about():
    x, y = torch.randn(40, 3), torch.randn(30, 3)
    results = [lsh_precision_recall(real=x, generated=y, seed=seed, draws=1) for seed in (0, 0, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unpaired(results[:2])
    with pytest.warns(UserWarning, match="not paired, seed is 0, 4"):
        warn_if_unpaired(results)


def test_skewed_cells_of_large_sets_are_warned_about(monkeypatch):
    monkeypatch.setattr(lsh, "_MANY_PAIRS", 1000)
    x, y = torch.rand(50, 3) + 1000, torch.rand(40, 3) + 1000
    with pytest.warns(UserWarning, match="100% of all pairs share a hash cell"):
        lsh_precision_recall(real=x, generated=y, draws=1)
    x, y = 1000 * (x - 1000.5), 1000 * (y - 1000.5)
    lsh_precision_recall(real=x, generated=y, draws=1)  # balanced: no warning


def test_read_only_arrays_are_taken_as_they_are():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    x.flags.writeable = False
    assert lsh_precision_recall(real=x, generated=x, draws=1)["lsh_precision"] == 1
