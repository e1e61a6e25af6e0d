# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md is what the benchmarks measured, at full size, and nothing else; what they compute with."""

import json

import pytest
import torch

from benchmarks import _page
from benchmarks._curves import best_at, front, gains, save_plot
from benchmarks.feature_quantizer import OneHot
from hf_ganzip.training.feature_quantizer import FeatureQuantizer


def test_the_page_is_the_rendered_results():
    assert _page.PAGE.read_text(encoding="utf-8") == _page.render()


def test_results_are_of_benchmarks_at_full_size():
    assert (
        {path.stem.partition("-")[0] for path in _page.RESULTS.glob("*.json")}
        == {path.stem for path in _page.scripts(measured=True)}
        != set()
    )
    for path in _page.RESULTS.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["rows"] and not found["conditions"]["quick"], path.name


def test_the_formulation_compared_with_does_the_same():
    ours, other = (
        FeatureQuantizer(3, 5, preset="official", feed="quantized", warmup_steps=0, anneal_steps=0),
        OneHot(3, 5),
    )
    other.embed.copy_(ours.embed.T)
    other.mean.copy_(ours.embed_avg.T)
    other.size.copy_(ours.cluster_size)
    ours.decay = other.decay
    for _ in range(3):
        h = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(ours(h).output, other(h)[0])
        torch.testing.assert_close(ours.embed, other.embed.T, rtol=1e-4, atol=1e-5)


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
