# SPDX-License-Identifier: Apache-2.0
"""How every report shows itself in a console, a notebook and pandas."""

import sys
from html.parser import HTMLParser

import pytest

import hf_ganzip as gz
from hf_ganzip.evaluation.comparing.report import CompareReport, Figure
from hf_ganzip.evaluation.cost import Cost, CostReport
from hf_ganzip.evaluation.evaluate import EvaluationReport
from hf_ganzip.metrics.resampling import Interval
from hf_ganzip.pruning.prune import PrunedSet, PruneReport
from hf_ganzip.publishing.push import PushReport
from hf_ganzip.quantization.report import LayerReport, QuantizeReport
from hf_ganzip.quantization.sensitivity import LayerSensitivity, SensitivityReport
from hf_ganzip.refine.refine import RefinedTensor, RefineReport

from .conftest import tiny_generator


NASTY = "<script>alert(1)</script> & co"
COMPARED = CompareReport(
    (
        Figure("pairs", "psnr", "dB", Interval(30.0, 29.0, float("inf"))),
        Figure("cost", "bytes_held", "bytes", Interval(10), Interval(40)),
        Figure("cost", "ms_per_image", "ms", Interval(2.0), Interval(1.0)),
    ),
    ({"component": NASTY, "timestep": 999.0, "sqnr": float("inf"), "low": None, "high": None},),
    {"original": NASTY, "candidate": NASTY},
    {NASTY: "why"},
)
COST = Cost(10, 20, 30, 40, None, 0.5)
REPORTS = [  # and the rows of their data frames
    (QuantizeReport((LayerReport(NASTY, "Linear", (4, 8), 128, 20, 4, "aciq", 18.5),), 8), 1),
    (PruneReport(NASTY, (PrunedSet(NASTY, 4, 2, (0, 1)), PrunedSet("b", 4, 4, (0, 1, 2, 3))), 9, 5, 90, 50), 2),
    (RefineReport(NASTY, (RefinedTensor(NASTY, (2, 2), (4.0, 1.0), (2.0, 1.0)), RefinedTensor("b", (2,))), ()), 2),
    (SensitivityReport((LayerSensitivity(NASTY, 8, {2: 0.5, 4: 0.1}, {2: 6, 4: 8}),), {"metric": NASTY}), 2),
    (CostReport(COST, None, {"device": NASTY}), 1),
    (CostReport(COST, COST, {"device": NASTY}), 2),
    (EvaluationReport({"m": {"precision": 0.5, "k": 3, "precision_std": 0.1}}, {"generated": NASTY, "seed": 0}), 3),
    (COMPARED, 3),
    (PushReport("me/x", "", {NASTY: 5}, "card", {}), 1),
]


class Checker(HTMLParser):
    """Every tag is closed in turn; collects the names of tags and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("report, rows", REPORTS, ids=[type(report).__name__ for report, _ in REPORTS])
def test_html_is_folded_and_escaped_repr_is_short_and_frames_have_a_row_for_each(report, rows):
    page = Checker(report._repr_html_())
    assert not page.open and "script" not in page.tags and NASTY in page.text
    assert page.tags.index("table") < page.tags.index("details")
    lines = repr(report).splitlines()
    assert len(lines) <= 3 and max(map(len, lines)) <= 119
    assert lines[0].startswith(type(report).__name__)
    frame = report.to_pandas()
    assert len(frame) == rows
    assert frame.columns.tolist() == list(report.rows()[0])


def test_long_facts_are_cut():
    report = EvaluationReport({"m": {f"figure_{i}": 0.5 for i in range(200)}}, {})
    assert len(repr(report).splitlines()) == 3 and " ..." in repr(report)


def test_what_cannot_be_said_is_left_out():
    frame = RefineReport("sqrt", (RefinedTensor("a", (2, 2), (4.0, 0.0), (2.0, 0.0)),), ()).to_pandas()
    assert frame["condition_before"].isna().all() and frame["largest_before"].tolist() == [4.0]


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    report = gz.prune_(tiny_generator(), gz.PruneConfig(ratio=0.5))
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_pandas()
