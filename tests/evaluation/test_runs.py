# SPDX-License-Identifier: Apache-2.0
"""Tables of repeated runs."""

from hf_ganzip.evaluation.runs import runs_table, spread, variants_of


RUNS = [
    {"variant": "a", "seed": 0, "curve": [{"fid": 9.0}, {"fid": 1.0}]},
    {"variant": "b", "seed": 0, "curve": [{"fid": 9.5}, {"fid": 5.0}]},
    {"variant": "a", "seed": 1, "curve": [{"fid": 7.0}, {"fid": 3.0}]},
]


def test_variants_keep_their_order_and_seeds():
    assert {name: len(curves) for name, curves in variants_of(RUNS).items()} == {"a": 2, "b": 1}


def test_spread_is_the_sample_standard_deviation_and_absent_for_one_run():
    curves = variants_of(RUNS)
    assert spread(curves["a"], "fid", digits=2) == "2.00 ± 1.41"
    assert spread(curves["a"], "fid", 0, 1) == "8.0 ± 1.4" and spread(curves["b"], "fid", digits=0) == "5"


def test_table():
    lines = runs_table(RUNS, {"before": ("fid", 0, 1), "after": ("fid", -1, 1)}, "start")
    assert lines == [
        "| start | seeds | before | after |",
        "|---|---|---|---|",
        "| a | 2 | 8.0 ± 1.4 | 2.0 ± 1.4 |",
        "| b | 1 | 9.5 | 5.0 |",
    ]
