# SPDX-License-Identifier: Apache-2.0
"""Tables of repeated runs, and runs that are gone on with."""

import pytest
from scipy.stats import ttest_1samp

from hf_ganzip.scripts.studies import check_conditions, finished_runs
from hf_ganzip.studies.runs import differences_table, half_interval, mean_with_interval, paired_differences, runs_table


RUNS = [
    {"variant": "a", "seed": 0, "curve": [{"fid": 9.0}, {"fid": 1.0}]},
    {"variant": "b", "seed": 0, "curve": [{"fid": 9.5}, {"fid": 5.0}]},
    {"variant": "a", "seed": 1, "curve": [{"fid": 7.0}, {"fid": 3.0}]},
]


def test_table_of_means_and_sample_standard_deviations():
    found = runs_table(RUNS, {"before": ("fid", 0, 1), "after": ("fid", -1, 1)}, "start")
    assert found.splitlines() == [
        "| start | seeds | before | after |",
        "|---|---|---|---|",
        "| a | 2 | 8.0 ± 1.4 | 2.0 ± 1.4 |",
        "| b | 1 | 9.5 | 5.0 |",
    ]


def test_the_interval_is_that_of_the_t_test():
    values = [0.3, -0.1, 0.5, 0.2]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_interval(values) == pytest.approx((high - low) / 2)
    assert mean_with_interval(values, 3) == f"0.225 ({low:.3f} to {high:.3f})" and mean_with_interval([2.0]) == "2.00"


def test_differences_are_to_the_first_variant_seed_by_seed():
    more = [*RUNS, {"variant": "b", "seed": 1, "curve": [{"fid": 7.0}, {"fid": 4.0}]}]
    only = [run for run in more if (run["variant"], run["seed"]) != ("a", 1)]
    assert paired_differences(only, "fid") == {"b": [4.0]}
    found = differences_table(more, {"before": ("fid", 0, 2), "after": ("fid", -1, 1)}, "start")
    assert found.splitlines() == [
        "| start | seeds | before | after |",
        "|---|---|---|---|",
        "| b | 2 | 0.25 (-2.93 to 3.43) | 2.5 (-16.6 to 21.6) |",
    ]


def test_runs_and_reports_of_other_conditions_are_refused(tmp_path):
    run, report = tmp_path / "run", tmp_path / "report.json"
    for _ in range(2):
        check_conditions(run, {"width": 1, "steps": (2, 3)})
    for other in ({"width": 1}, {"width": 1, "steps": [2, 4]}, {"width": 1, "steps": [2, 3], "more": 1}):
        with pytest.raises(ValueError, match="other conditions"):
            check_conditions(run, other)
    assert finished_runs(report, {"width": 1}, ["width"]) == []
    report.write_text('{"conditions": {"width": 1, "threads": 2}, "runs": [{"seed": 0}]}')
    assert finished_runs(report, {"width": 1, "threads": 3}, ["width"]) == [{"seed": 0}]
    with pytest.raises(ValueError, match="report.json holds .* .width 1, now 2."):
        finished_runs(report, {"width": 2}, ["width"])
