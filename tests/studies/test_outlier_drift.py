# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.metrics import density_coverage, knn_precision_recall, lsh_precision_recall, realism_scores
from hf_ganzip.studies.outlier_drift import (
    drift,
    drifts_of,
    gaps_of,
    geometry_of,
    is_judged,
    mean_drift,
    passed,
    with_outliers,
)
from hf_ganzip.studies.outlier_report import study_report, verdict
from hf_ganzip.studies.pooled_scores import METHODS, Pool, PooledScores, keys_of, squared_distances


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def pool_of(features: torch.Tensor) -> Pool:
    return Pool(features, keys_of(features, torch.zeros(features.shape[1]), num_hyperplanes=6, draws=2, seed=0))


def test_the_papers_picture_an_outlier_with_a_huge_ball_counts_for_knn_and_is_alone_in_its_cell():
    """Figure 1 (h) of Mordido et al. in the plane: the ball of one generated outlier holds the real points that were
    missed.
    """
    up, down = torch.tensor([5.0, 5.0]), torch.tensor([5.0, -5.0])
    real = torch.cat([0.1 * normal(30, 2, 0) + up, 0.1 * normal(30, 2, 1) + down])
    clean = 0.1 * normal(30, 2, 2) + up
    dirty = torch.cat([torch.tensor([[-6.0, -6.0]]), clean[1:]])
    knn = [knn_precision_recall(real=real, generated=each)["recall"] for each in (clean, dirty)]
    options = {"real": real, "num_hyperplanes": 8, "draws": 5}
    lsh = [lsh_precision_recall(generated=each, **options)["lsh_knn_recall"] for each in (clean, dirty)]
    assert knn[0] < 0.5 and knn[1] > knn[0] + 0.49
    assert abs(lsh[1] - lsh[0]) < 0.02


@pytest.mark.parametrize("distance", [3.0, 300.0])
def test_the_ball_of_a_lone_outlier_holds_about_k_samples_of_a_good_generator_however_far_it_is(distance):
    """Where the generated samples are distributed like the n real ones, the k-th nearest real one has k m / n
    generated ones before it.
    """
    real, generated = normal(200, 32, 0), normal(200, 32, 1)
    pool = pool_of(torch.cat([real, distance * torch.nn.functional.normalize(normal(40, 32, 2))]))
    distances, inside = {"good": squared_distances(pool.features, generated)}, []
    for outlier in range(200, 240):
        balls = pool.balls(torch.cat([torch.arange(199), torch.tensor([outlier])]))
        inside.append(geometry_of(pool, balls, distances, 200)["inside"]["good"])
    deviation = (3 * 2 / 40) ** 0.5  # of the mean of 40 negative binomials with mean 3 and variance 6
    assert len(set(inside)) > 3 and abs(sum(inside) / 40 - 3) < 4 * deviation


def test_outliers_replace_samples_and_far_ones_are_alone():
    pool = pool_of(torch.cat([normal(50, 8, 0) + 5, -100 - normal(3, 8, 1)]))
    rows = with_outliers(torch.randperm(50, generator=torch.Generator().manual_seed(0)), 2)
    assert rows[rows >= 50].sort().values.tolist() == [50, 51] and rows.unique().numel() == 50
    distances = {"other": squared_distances(pool.features, normal(20, 8, 3))}
    found = geometry_of(pool, pool.balls(rows), distances, 50)
    assert found["alone"] == 1 and found["distance"] > 10 and found["radius"] > 10


def test_drift_is_what_outliers_need_not_change():
    assert drift(0.8, 0.8, "precision", "reference", 0.1) == 0
    assert drift(0.8, 0.72, "recall", "reference", 0.1) == pytest.approx(0)
    assert drift(0.8, 0.72, "precision", "generated", 0.1) == pytest.approx(0)
    assert drift(0.8, 0.9, "recall", "generated", 0.1) == pytest.approx(0.1)
    assert drift(0.8, 0.77, "precision", "both", 0.1) == drift(0.8, 0.82, "recall", "both", 0.1) == 0
    assert drift(0.8, 0.7, "precision", "both", 0.1) == pytest.approx(-0.02)
    assert [is_judged(side, "reference") for side in ("precision", "recall")] == [False, True]


@pytest.fixture
def run():
    """Outliers in the reference raise KNN precision by 0.05; nothing else moves, not even what must fall."""
    clean = {name: dict.fromkeys(METHODS, values) for name, values in
             {"good": [0.9, 0.8], "few": [0.9, 0.3], "poor": [0.4, 0.8]}.items()}  # fmt: skip
    moved = {name: {**scores, "KNN": [scores["KNN"][0] + 0.05, scores["KNN"][1]]} for name, scores in clean.items()}
    places = {"reference": {"0.1": moved}, "generated": {"0.1": clean}, "both": {"0.1": clean}}
    geometry = {"0.1": {"distance": 1.0, "radius": 1.0, "alone": 0.0, "inside": {"good": 1, "few": 1, "poor": 1}}}
    return {"kind": "toy", "dim": 2, "num_samples": 100, "clean": clean, "geometry": geometry, **places}


def test_drifts_are_relative_to_the_gap_between_good_and_bad(run):
    assert gaps_of(run["clean"])["KNN"] == [0.5, 0.5]
    found = drifts_of(run, "KNN", "reference", "0.1", "gap")
    assert found["stay"] == pytest.approx([0.1, 0.1, 0.1])
    assert found["fall"] == pytest.approx([0.16, 0.06, 0.16])  # recall should have lost a tenth
    assert drifts_of(run, "KNN", "reference", "0.1", "value")["stay"] == pytest.approx([0.05 / 0.9, 0.05 / 0.9, 0.125])
    assert drifts_of(run, "KNN", "reference", "0.1", "point")["stay"] == pytest.approx([5, 5, 5])
    # The recall with outliers in the generated set stays.
    assert mean_drift(run, "KNN", "stay", "gap") == pytest.approx(0.05)
    # Nothing fell: as many as of the others.
    assert passed(run, "KNN", "0.1") == pytest.approx((0.9 + 0.9 + 0.4 + 0.8 + 0.3 + 0.8) / 6)
    assert mean_drift(run, "LSH+KNN", "stay", "gap") == mean_drift(run, "KNN", "both", "gap") == 0


def test_the_report_says_which_method_drifts_more(run):
    assert verdict([run, run]).splitlines()[2] == "| 10 % | -5.00 ± 0.00 | 0 of 2 |"
    text = study_report([run], {"num_samples": 100, "draws": 1, "outliers": "toys"})
    assert "outliers: toys" in text and "| toy (d = 2) | must stay | 0.00 | 0.00 | 0.00 | 5.00 |" in text


@pytest.mark.parametrize("bits", [3, 8])
def test_values_of_subsets_are_those_of_the_metrics(bits):
    random = torch.Generator().manual_seed(bits)
    pools = [torch.randn(70, 12, generator=random) + 0.5, 0.8 * torch.randn(60, 12, generator=random) + 0.4]
    center = pools[0][:50].mean(dim=0)
    options = {"draws": 3, "seed": 5, "num_hyperplanes": bits}
    real, generated = (Pool(each, keys_of(each, center, **options)) for each in pools)
    rows = torch.randperm(70, generator=random)[:50], torch.randperm(60, generator=random)[:40]
    found = PooledScores(real, generated)(real.balls(rows[0]), generated.balls(rows[1]))
    sets = {"real": pools[0][rows[0]], "generated": pools[1][rows[1]]}
    plain, centred = (lsh_precision_recall(**sets, center=middle, **options) for middle in (None, center))
    orders = tuple(sets.values()), tuple(sets.values())[::-1]
    pruned = [realism_scores(real=a, generated=b, method="knn") >= 1 for a, b in orders]
    expected = {
        "LSH": [plain["lsh_precision"], plain["lsh_recall"]],
        "LSH+KNN": [plain["lsh_knn_precision"], plain["lsh_knn_recall"]],
        "LSH+KNN, centred": [centred["lsh_knn_precision"], centred["lsh_knn_recall"]],
        "KNN": list(knn_precision_recall(**sets).values()),
        "KNN, pruned": [float(side.mean()) for side in pruned],
        "density, coverage": list(density_coverage(**sets).values()),
    }
    assert tuple(found) == METHODS
    for method, values in expected.items():
        assert found[method] == pytest.approx(values), method
        assert all(0.1 < value for value in values) and values[0] != values[1], method
