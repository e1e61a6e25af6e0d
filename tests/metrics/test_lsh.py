# SPDX-License-Identifier: Apache-2.0
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.metrics import cells, knn_precision_recall, lsh_precision_recall
from hf_ganzip.metrics.hyperplanes import hash_keys, hyperplanes
from hf_ganzip.metrics.lsh import precision_recall_of_keys


REAL = torch.tensor([(1.0, 1), (2, 2), (3, 1), (-1, 1), (-1, -2)])
GENERATED = torch.tensor([(1.0, 2), (2, 1), (-2, 3), (1, -1)])
AXES = torch.eye(2), torch.zeros(2)


def naive_in_cells(reference, evaluated, reference_keys, evaluated_keys, k):
    """Equations 8-10 with dictionaries, in float64."""
    reference, evaluated = reference.double().numpy(), evaluated.double().numpy()
    members = defaultdict(list)
    for index, key in enumerate(reference_keys.tolist()):
        members[key].append(index)
    hits = 0
    for point, key in zip(evaluated, evaluated_keys.tolist()):
        for r in members[key]:
            others = sorted(((reference[r] - reference[o]) ** 2).sum() for o in members[key] if o != r)
            radius = others[min(k, len(others)) - 1] if others else 0.0
            if ((point - reference[r]) ** 2).sum() <= radius:
                hits += 1
                break
    return hits / len(evaluated)


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


def test_planes_depend_on_seed_and_index_only():
    few, many = hyperplanes(7, 3, seed=5), hyperplanes(7, 20, seed=5)
    assert np.array_equal(few[0], many[0][:3]) and np.array_equal(few[1], many[1][:3])
    assert not np.array_equal(few[0], hyperplanes(7, 3, seed=6)[0])
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
    assert result["lsh_knn_precision"] == naive_in_cells(real, generated, *keys, k)
    assert result["lsh_knn_recall"] == naive_in_cells(generated, real, *keys[::-1], k)
    assert result["lsh_precision"] == np.mean([key in set(keys[0].tolist()) for key in keys[1].tolist()])
    assert result["lsh_knn_precision"] <= result["lsh_precision"]


def test_one_cell_is_plain_knn():
    real, generated = torch.randn(80, 5), torch.randn(70, 5)
    one = torch.zeros(80, dtype=torch.int64), torch.zeros(70, dtype=torch.int64)
    result = precision_recall_of_keys(real, generated, *one, 3)
    knn = knn_precision_recall(real=real, generated=generated, k=3)
    assert (result["lsh_knn_precision"], result["lsh_knn_recall"]) == (knn["precision"], knn["recall"])
    assert result["lsh_precision"] == 1


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_identical_sets_score_one_with_duplicates(copies):
    x = torch.randn(60, 4).repeat(copies, 1)
    result = lsh_precision_recall(real=x, generated=x.flip(0), draws=3)
    assert all(result[name] == 1 for name in ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall"))


def test_opposite_sets_score_zero():
    x = torch.rand(50, 3) * 100 + 100
    result = lsh_precision_recall(real=x, generated=-x, num_hyperplanes=12)
    assert result["lsh_knn_precision"] == 0 and result["lsh_knn_recall"] == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_more_planes_never_raise_plain_lsh_and_roles_can_be_exchanged(seed):
    generator = torch.Generator().manual_seed(seed)
    real, generated = torch.randn(70, 4, generator=generator), torch.randn(50, 4, generator=generator)
    previous = 1.0
    for bits in range(1, 10):
        options = {"num_hyperplanes": bits, "draws": 1, "k": None, "seed": seed}
        precision = lsh_precision_recall(real=real, generated=generated, **options)["lsh_precision"]
        assert precision == lsh_precision_recall(real=generated, generated=real, **options)["lsh_recall"]
        assert precision <= previous
        previous = precision


def test_scaling_features_together_changes_no_distance_decision():
    real, generated = torch.randn(90, 6), torch.randn(80, 6)
    normals, offsets = hyperplanes(6, 5, seed=0)
    results = []
    for c in (1.0, 8.0):
        keys = (hash_keys(c * side, normals, c * offsets) for side in (real, generated))
        results.append(precision_recall_of_keys(c * real, c * generated, *keys, 3))
    assert results[0] == results[1]


def test_plain_lsh_and_conditions():
    result = lsh_precision_recall(real=REAL, generated=GENERATED, k=None, draws=2, seed=7)
    assert "lsh_knn_precision" not in result
    conditions = {"num_hyperplanes": 3, "draws": 2, "k": None, "seed": 7, "n_real": 5, "n_generated": 4, "dim": 2}
    assert {name: result[name] for name in conditions} == conditions


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_hyperplanes": 0}, "num_hyperplanes is 0; allowed are integers from 1 to 62"),
        ({"num_hyperplanes": 63}, "allowed are integers from 1 to 62"),
        ({"draws": 0}, "draws is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        lsh_precision_recall(real=REAL, generated=GENERATED, **options)


def test_62_planes_work():
    real = torch.randn(30, 4)
    assert lsh_precision_recall(real=real, generated=real, num_hyperplanes=62, draws=1)["lsh_knn_recall"] == 1
