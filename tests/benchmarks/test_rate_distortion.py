# SPDX-License-Identifier: Apache-2.0
import pytest

from benchmarks._curves import best_at, front, gains, save_plot

from . import quick_run


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


@pytest.mark.process
def test_quick_run_of_a_diffusion_model_counts_every_byte(tmp_path):
    chosen = ["--diffusion-methods", "auto", "linear", "auto mixed", "--diffusion-bits", "4", "2", "--images", "2"]
    rows = quick_run("quantization", tmp_path, "--only", "diffusion", "--no-peers", "--random-model", *chosen)["rows"]
    found = {(row["model"], row["method"], row["bits"]): row for row in rows}
    whole = found["ddpm-fashion-mnist", "full precision", 32]
    assert whole["bytes"] == 4451204 and whole["bits per weight"] == pytest.approx(32)
    auto, few, mixed, linear = (
        found["ddpm-fashion-mnist", method, bits]
        for method, bits in (("auto", 4), ("auto", 2), ("auto mixed", 2), ("linear", 2))
    )
    assert few["bytes"] < auto["bytes"] < whole["bytes"] / 6 and 0.9 * few["bytes"] < mixed["bytes"] <= few["bytes"]
    assert (
        linear["SQNR dB"] < few["SQNR dB"] < auto["SQNR dB"] and few["PSNR dB, 50 steps"] < auto["PSNR dB, 50 steps"]
    )
    assert {row["method"] for row in rows if row["model"].startswith("random")} == {"full precision", "auto", "linear"}


@pytest.mark.process
def test_quick_run_of_loading_compares_fresh_processes(tmp_path):
    rows = quick_run("quantization", tmp_path, "--only", "large")["rows"]
    sides = {row["method"]: row for row in rows if row["section"] == "large"}
    assert {"plain", "auto", "our folder", "plain folder"} <= sides.keys()
    assert sides["auto"]["MiB"] == sides["our folder"]["MiB"] < sides["plain"]["MiB"] / 3
    ratios = [row["ratio"] for row in rows if row["section"] == "large, ratios"]
    assert len(ratios) >= 7 and all(ratio > 0 for ratio in ratios)
