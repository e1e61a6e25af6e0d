# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.metrics import LSHPrecisionRecall, cells, lsh_precision_recall
from hf_ganzip.metrics.hyperplanes import hash_keys, hyperplanes
from hf_ganzip.metrics.lsh import precision_recall_of_keys

from .conftest import GENERATED, REAL, naive


AXES = torch.eye(2), torch.zeros(2)


def test_mode_collapse_has_high_precision_and_low_recall():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(500, 8, generator=generator)
    generated = real[:1] + 1e-3 * torch.randn(500, 8, generator=generator)
    result = lsh_precision_recall(real=real, generated=generated, num_hyperplanes=5)
    assert result["lsh_precision"] > 0.95 and result["lsh_recall"] < 0.3
    assert result["lsh_knn_precision"] > 0.9 and result["lsh_knn_recall"] < 0.1


def test_exact_small_example():
    assert hash_keys(torch.zeros(1, 2), *AXES).tolist() == [3], "a projection of zero counts as one"
    keys = hash_keys(REAL, *AXES), hash_keys(GENERATED, *AXES)
    assert (keys[0].tolist(), keys[1].tolist()) == ([3, 3, 3, 2, 0], [3, 3, 2, 1])
    for k in (1, 3):
        assert list(precision_recall_of_keys(REAL, GENERATED, *keys, k).values()) == [0.75, 0.8, 0.5, 0.6]


def test_planes_are_random():
    assert not np.array_equal(hyperplanes(7, 3, seed=5)[0], hyperplanes(7, 3, seed=6)[0])
    normals, offsets = hyperplanes(50, 2000, seed=0)
    assert abs(normals.mean()) < 0.02 and abs(normals.std() - 1) < 0.02
    assert 0 <= offsets.min() and offsets.max() < 1 and abs(offsets.mean() - 0.5) < 0.03


def test_draws_use_consecutive_seeds_and_leave_the_global_generators_alone():
    real, generated = torch.randn(60, 4), torch.randn(50, 4)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    singles = [lsh_precision_recall(real=real, generated=generated, draws=1, seed=s) for s in (3, 4, 5)]
    together = lsh_precision_recall(real=real, generated=generated, draws=3, seed=3)
    for name in ("lsh_precision", "lsh_knn_recall"):
        values = [single[name] for single in singles]
        assert together[name] == pytest.approx(np.mean(values))
        assert together[f"{name}_std"] == pytest.approx(np.std(values, ddof=1))
        assert singles[0][f"{name}_std"] == 0.0
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 60), m=st.integers(2, 60), dim=st.integers(1, 8), bits=st.integers(1, 9), k=st.integers(1, 6),
    seed=st.integers(0, 999), ties=st.booleans(), large=st.sampled_from([0, 3, 100]),
)  # fmt: skip
def test_agrees_with_dictionaries(n, m, dim, bits, k, seed, ties, large):
    generator = torch.Generator().manual_seed(seed)
    real, generated = torch.randn(n, dim, generator=generator), torch.randn(m, dim, generator=generator)
    if ties:
        real, generated = real.round(), generated.round()
    generated[: m // 3] = real[torch.randint(0, n, (m // 3,), generator=generator)]  # duplicates across the sets
    keys = tuple(hash_keys(x, *hyperplanes(dim, bits, seed)) for x in (real, generated))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "LARGE_CELL", large)  # both code paths
        result = precision_recall_of_keys(real, generated, *keys, k)
    expected = naive(real, generated, k, *keys)
    assert (result["lsh_knn_precision"], result["lsh_knn_recall"]) == (expected["precision"], expected["recall"])
    shares = [np.isin(keys[side], keys[1 - side]).mean() for side in (1, 0)]
    assert [result["lsh_precision"], result["lsh_recall"]] == shares
    assert result["lsh_knn_precision"] <= result["lsh_precision"]


def test_plain_lsh_is_the_other_half_of_lsh_with_neighbours():
    sets = {"real": torch.randn(70, 4), "generated": torch.randn(50, 4)}
    both, plain = (lsh_precision_recall(**sets, num_hyperplanes=8, draws=4, k=k) for k in (3, None))
    assert plain == {name: value for name, value in both.items() if "knn" not in name} | {"k": None}
    assert 0 < plain["lsh_recall"] < plain["lsh_precision"] < 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_hyperplanes": 0}, "num_hyperplanes is 0; allowed are integers from 1 to 62"),
        ({"num_hyperplanes": 63}, "allowed are integers from 1 to 62"),
        ({"draws": 0}, "draws is 0"),
        ({"k": 0}, "k is 0"),
        *(({"log_base": base, "num_hyperplanes": 3}, "allowed are numbers above 1") for base in (1, -2, float("nan"))),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        lsh_precision_recall(real=REAL, generated=GENERATED, **options)


def test_62_planes_work():
    real = torch.randn(30, 4)
    assert lsh_precision_recall(real=real, generated=real, num_hyperplanes=62, draws=1)["lsh_knn_recall"] == 1


class TestStreaming:
    """What streamed LSH is besides an accumulator (test_accumulate.py)."""

    @pytest.mark.parametrize("num_hyperplanes", [None, 4, 30])
    @pytest.mark.parametrize("k", [None, 2])
    def test_it_gives_the_values_and_conditions_of_the_function(self, k, num_hyperplanes):
        sets = {"real": torch.randn(157, 6), "generated": 0.8 * torch.randn(120, 6)}
        options = {"k": k, "num_hyperplanes": num_hyperplanes, "draws": 3, "seed": 5}
        result = LSHPrecisionRecall(**options).update(**sets).compute()
        assert result == lsh_precision_recall(**sets, **options)
        conditions = options | {"num_hyperplanes": num_hyperplanes or 8, "n_real": 157, "n_generated": 120, "dim": 6}
        assert result | conditions == result and ("lsh_knn_precision" in result) == (k is not None)

    def test_plain_lsh_remembers_distinct_keys_only(self):
        generator = torch.Generator().manual_seed(0)
        metric = LSHPrecisionRecall(num_hyperplanes=6, draws=2)
        for _ in range(40):
            batch = torch.randn(5000, 16, generator=generator)
            metric.update(real=batch, generated=batch + 1)
            assert sum(map(len, metric._held["real"]._pending)) <= 2**16, "keys pile up before they are counted"
        tensors = metric.state_dict().values()
        assert sum(x.numel() for x in tensors) <= 2 * (2 * 2 * 2**6 + 4)
        assert metric.compute()["n_real"] == 200_000

    @pytest.mark.parametrize("change", [{"seed": 1}, {"draws": 2}, {"num_hyperplanes": 5}, {"center": [1.0, 1.0]}])
    @pytest.mark.parametrize("k", [None, 1])
    def test_keys_of_other_hyperplanes_do_not_merge(self, change, k):
        options = {"k": k, "seed": 0, "draws": 1, "num_hyperplanes": 4, "center": None}
        other, metric = LSHPrecisionRecall(**options | change).update(real=REAL), LSHPrecisionRecall(**options)
        with pytest.raises(ValueError, match="merge: real has keys of other hyperplanes; seed, draws"):
            metric.merge(other)
        with pytest.raises(ValueError, match="load_state_dict: real has keys of other hyperplanes"):
            metric.load_state_dict(other.state_dict())
        assert metric.state_dict() == {}

    def test_too_few_samples(self):
        metric = LSHPrecisionRecall()
        with pytest.raises(ValueError, match="real has 0 rows; at least 2 are needed"):
            metric.compute()
        metric.update(real=REAL, generated=GENERATED[:1])
        with pytest.raises(ValueError, match="generated has 1 rows"):
            metric.compute()
