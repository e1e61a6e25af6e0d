# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.metrics import density_coverage, knn, knn_precision_recall

from .conftest import GENERATED, REAL, naive


def test_mode_collapse_has_high_precision_and_low_recall():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(300, 8, generator=generator)
    generated = real[:1] + 1e-3 * torch.randn(300, 8, generator=generator)
    result = knn_precision_recall(real=real, generated=generated)
    assert result["precision"] == 1 and result["recall"] < 0.05
    assert density_coverage(real=real, generated=generated)["coverage"] < 0.2


def test_exact_small_example():
    assert knn_precision_recall(real=REAL, generated=GENERATED, k=1) == {"precision": 0.75, "recall": 1.0}
    assert knn_precision_recall(real=REAL, generated=GENERATED, k=3) == {"precision": 1.0, "recall": 1.0}
    assert density_coverage(real=REAL, generated=GENERATED, k=1) == {"density": 1.5, "coverage": 0.8}


def test_golden_values_of_the_reference_libraries(golden):
    sets, expected = golden
    for k in (3, 5):
        result = knn_precision_recall(**sets, k=k) | density_coverage(**sets, k=k)
        assert result == pytest.approx(expected[f"prdc_k{k}"], abs=1e-12)
    result = knn_precision_recall(**sets, k=3)
    assert result["precision"] == pytest.approx(expected["tf_prc_k3"]["precision"], abs=1e-7)
    assert result["recall"] == pytest.approx(expected["tf_prc_k3"]["recall"], abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 30), m=st.integers(2, 30), dim=st.integers(1, 4), k=st.integers(1, 40), seed=st.integers(0, 999),
    span=st.sampled_from([2, 4, 100]), offset=st.sampled_from([0, 1000]),
)  # fmt: skip
def test_agrees_with_distance_matrices_on_grids_full_of_ties(n, m, dim, k, seed, span, offset):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randint(0, span, (n, dim), generator=generator).float() + offset
    generated = torch.randint(0, span, (m, dim), generator=generator).float() + offset
    options = {"real": real, "generated": generated, "k": k}
    result = knn_precision_recall(**options) | density_coverage(**options)
    assert result == pytest.approx(naive(real, generated, k), abs=1e-12)


def test_block_size_does_not_matter(monkeypatch):
    real, generated = torch.randn(130, 5), torch.randn(90, 5)
    functions = knn_precision_recall, density_coverage
    expected = [function(real=real, generated=generated) for function in functions]
    monkeypatch.setattr(knn, "TILE", 7)
    monkeypatch.setattr(knn, "_PAIR_BUDGET", 11)
    assert [function(real=real, generated=generated) for function in functions] == expected


@pytest.mark.parametrize("metric", [knn_precision_recall, density_coverage])
@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_wrong_k(metric, k):
    with pytest.raises(ValueError if k in (0, -1) else TypeError, match="allowed are integers from 1"):
        metric(real=REAL, generated=GENERATED, k=k)


def test_points_at_equal_distances_are_all_inside():
    real = torch.eye(40)  # every distance is sqrt(2), which no product in float32 settles
    result = knn_precision_recall(real=real[:20], generated=real[20:])
    assert result == {"precision": 1.0, "recall": 1.0}
    assert density_coverage(real=real[:20], generated=real[20:], k=3)["density"] == pytest.approx(20 / 3)


@pytest.mark.parametrize("offset", [0, 1e3, 1e5])
def test_a_common_offset_changes_no_decision(offset):
    generator = torch.Generator().manual_seed(0)
    # The rounded values are the data.
    real, generated = (torch.randn(count, 30, generator=generator) + offset for count in (400, 300))
    result = knn_precision_recall(real=real, generated=generated)
    expected = naive(real, generated, 3)
    assert result == {"precision": expected["precision"], "recall": expected["recall"]}


def test_remembered_neighbours_are_completed_where_rounding_hides_the_order():
    generator = torch.Generator().manual_seed(0)
    ring = torch.nn.functional.normalize(torch.randn(60, 12, generator=generator, dtype=torch.float64)) * 100
    real = torch.cat([torch.zeros(1, 12), ring.float()])  # 60 points at almost one distance from the first
    balls = knn.Balls(knn.Points(real), 3)
    exact = (real[1:].double() ** 2).sum(1).sort().values[2]
    assert balls.exact_radii(torch.tensor([0])).item() == exact.item()


def test_reduced_matmul_precision_changes_no_decision():
    real, generated = torch.randn(300, 64), torch.randn(300, 64)
    expected = knn_precision_recall(real=real, generated=generated)
    torch.set_float32_matmul_precision("medium")
    try:
        assert knn_precision_recall(real=real, generated=generated) == expected
    finally:
        torch.set_float32_matmul_precision("highest")


def test_features_beyond_the_squares_of_float32():
    real, generated = torch.randn(50, 4), torch.randn(40, 4)
    expected = knn_precision_recall(real=real, generated=generated)
    for scale in (2.0**90, 2.0**-90):
        assert knn_precision_recall(real=scale * real, generated=scale * generated) == expected
