# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks._curves import best_at, front, gains, save_plot


def points(method, *pairs):
    return [{"method": method, "bytes": size, "dB": value, "by": method} for size, value in pairs]


def test_front_leaves_out_what_fewer_bytes_reach():
    rows = [*points("a", (4, 3.0), (4, 6.0), (1, 2.0), (8, 5.0)), {"method": "a", "bytes": 9, "dB": None}]
    assert front(rows, "dB") == [(1, 2.0), (4, 6.0)]


def test_the_best_of_several_methods_is_never_below_one_of_them():
    strong, weak = points("strong", (100, 10.0), (400, 30.0)), points("weak", (390, 11.0), (800, 12.0))
    assert best_at(strong, "dB", 200) == pytest.approx(20.0), "linear in the logarithm of the bytes"
    assert best_at(strong + weak, "dB", 200) == best_at(strong, "dB", 200)
    assert best_at(strong + weak, "dB", 600) == best_at(weak, "dB", 600) and best_at(strong + weak, "dB", 99) is None


def test_gains_are_at_equal_bytes_and_tell_what_has_no_equal():
    ours = points("ours", (100, 10.0), (400, 30.0))
    peers = points("peer", (50, 1.0), (200, 15.0), (400, 24.0), (900, 40.0))
    assert gains(ours, peers, "dB", (40, 500)) == {
        "points": 2,
        "outside": 1,
        "least dB": pytest.approx(5.0),
        "median dB": pytest.approx(5.5),
    }
    assert gains(ours, peers, "dB", (800, 1000)) == {"points": 0, "outside": 1}


def test_a_plot_has_a_panel_for_every_model(tmp_path):
    rows = [
        row | {"model": model, "bits per weight": row["bytes"]}
        for model in "xy"
        for row in points("peer", (2, 1.0), (3, 2.0))
    ]
    save_plot(rows, "dB", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
