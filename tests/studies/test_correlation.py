# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.studies.correlation import correlation, correlation_table, pareto_front


pytest.importorskip("scipy", reason="scipy is not installed")

# Mordido et al., table 2, FFHQ-256: LSH P, R, LSH+KNN P, R, KNN P, R, FID of ADA and StyleGAN2 at 32, 4, 3 and 2 bits
PAPER = [
    (0.929, 0.919, 0.763, 0.784, 0.681, 0.442, 3.8),
    (0.941, 0.906, 0.811, 0.701, 0.740, 0.285, 10.1),
    (0.969, 0.815, 0.896, 0.446, 0.808, 0.048, 40.4),
    (0.751, 0.651, 0.280, 0.135, 0.307, 0.000, 145.9),
    (0.933, 0.917, 0.764, 0.772, 0.682, 0.445, 3.7),
    (0.940, 0.902, 0.813, 0.715, 0.802, 0.220, 14.4),
    (0.965, 0.838, 0.900, 0.595, 0.891, 0.043, 40.2),
    (0.730, 0.626, 0.352, 0.229, 0.371, 0.000, 143.4),
]
NAMES = ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall", "precision", "recall")


def paper_rows():
    return [dict(zip((*NAMES, "frechet_distance"), row)) for row in PAPER]


def test_pearson_and_spearman_by_hand():
    x, y = [1, 2, 3, 5], [2, 1, 4, 4]
    # centred: (-1.75, -.75, .25, 2.25) and (-.75, -1.75, 1.25, 1.25); ranks of y: 2, 1, 3.5, 3.5
    assert correlation(x, y)["coefficient"] == pytest.approx(5.75 / (8.75 * 6.75) ** 0.5)
    assert correlation(x, y, method="spearman")["coefficient"] == pytest.approx(3.5 / (5 * 4.5) ** 0.5)
    assert correlation(x, y)["n"] == 4 and 0 < correlation(x, y)["p_value"] < 1


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1, 2], [1, 2], "same length, 3 or more"),
        ([1, 2, 3], [1, 2], "same length, 3 or more"),
        ([[1, 2, 3]], [[1, 2, 3]], "same length, 3 or more"),
        ([1, 2, 3], [4, 4, 4], r"y is constant \(4\)"),
        ([1, float("nan"), 3], [1, 2, 3], "x has NaN or infinity"),
    ],
)
def test_what_has_no_correlation_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        correlation(x, y)
    with pytest.raises(ValueError, match="Unknown method 'spearmen'. Did you mean 'spearman'"):
        correlation(x, y, method="spearmen")


def test_the_paper_s_finding_in_its_own_numbers():
    """FID follows recall, not precision: section 5.4 of the paper."""
    table = {row["score"]: row for row in correlation_table(paper_rows())}
    assert list(table) == list(NAMES)
    for recall in ("lsh_recall", "lsh_knn_recall", "recall"):
        assert table[recall]["spearman"] < -0.95 and table[recall]["pearson"] < -0.75
    for precision in ("lsh_precision", "lsh_knn_precision", "precision"):
        assert abs(table[precision]["spearman"]) < 0.3
    expected = correlation([row[-1] for row in PAPER], [row[1] for row in PAPER])
    assert table["lsh_recall"]["pearson"] == expected["coefficient"]
    assert table["lsh_recall"]["pearson_p_value"] == expected["p_value"]
    assert table["lsh_recall"]["n"] == 8 and table["lsh_recall"]["problem"] is None


def test_a_constant_column_is_named_not_dropped():
    rows = [row | {"recall": 0.0} for row in paper_rows()]
    row = next(row for row in correlation_table(rows) if row["score"] == "recall")
    assert row["pearson"] is None and row["spearman_p_value"] is None
    assert row["problem"] == "recall constant over the rows"


def test_tables_that_cannot_be_made_are_refused():
    rows = paper_rows()
    with pytest.raises(ValueError, match="got 2 rows; at least 3"):
        correlation_table(rows[:2])
    without = {"frechet_distance": 1, "recall": 0}
    with pytest.raises(ValueError, match="lsh_recall is missing in rows 1, 3"):
        correlation_table([rows[0], without, rows[2], without], scores=("lsh_recall",))
    with pytest.raises(ValueError, match="none of the distances kernel_distance"):
        correlation_table(rows, distances=("kernel_distance",))
    with pytest.raises(ValueError, match="frechet_distance have NaN or infinity"):
        correlation_table([rows[0] | {"frechet_distance": float("nan")}, *rows[1:]])


def dominated(point, points):
    return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40))
def test_pareto_front_by_its_definition(points):
    assert pareto_front(points) == [i for i, point in enumerate(points) if not dominated(point, points)]


def test_pareto_front_of_many_points_and_of_what_are_no_pairs():
    points = [(i, 200_000 - i) for i in range(200_000)]  # comparing all pairs would run into the time limit
    assert len(pareto_front(points)) == 200_000
    for points in ([(1, 2, 3)], [(1, float("nan"))], [1, 2]):
        with pytest.raises(ValueError, match="allowed are pairs"):
            pareto_front(points)


def test_rows_of_other_hyperplanes_are_warned_about():
    rows = [{"frechet_distance": d, "recall": 1 / d, "seed": 0} for d in (1.0, 2.0, 4.0)]
    correlation_table(rows)
    with pytest.warns(UserWarning, match="not paired, seed is 0, 1"):
        correlation_table([*rows[:2], rows[2] | {"seed": 1}])
