# SPDX-License-Identifier: Apache-2.0
"""What the pictures show, read from the figures and pixels."""

import pytest
import torch

from hf_ganzip.evaluation import plotting
from hf_ganzip.images import grids as image_grids
from hf_ganzip.refine.refine import RefinedTensor, RefineReport


pytest.importorskip("matplotlib")
KINDS = ("lsh", "lsh_knn", "knn")


def study_rows(methods):
    values = {f"{key}_{kind}": 0.5 for key in KINDS for kind in ("precision", "recall")}
    per_class = {"realism_per_class": [1.0, 0.5]}
    rows = [{"method": "full", "bits": 32} | values | per_class]
    return rows + [{"method": m, "bits": bits} | values | per_class for m in methods for bits in (4, 3)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made."""
    figures, new_figure = [], plotting.new_figure
    monkeypatch.setattr(plotting, "new_figure", lambda *size: figures.append(new_figure(*size)) or figures[-1])
    return figures


@pytest.mark.parametrize("count", [2, 4, 11])
def test_precision_and_recall_can_be_told_apart(drawn, tmp_path, count):
    methods = [f"method {i}" for i in range(count)]
    plotting.save_precision_recall_plot(study_rows(methods), tmp_path / "plot.png")
    (figure,) = drawn
    for axes in figure.axes:
        assert axes.get_xlabel() == "bits" and [float(t) for t in axes.get_xticks()] == [3, 4]
        assert any(line.get_label().startswith("full precision") for line in axes.lines)
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
        assert len(looks) == len(axes.lines)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    if count == 2:
        one, other = lines["method 0, precision"], lines["method 0, recall"]
        assert one.get_color() == other.get_color() and one.get_linestyle() != other.get_linestyle()
    assert figure.axes[0].get_ylabel().startswith("precision")


def test_realism_by_name(drawn, tmp_path):
    plotting.save_realism_plot(study_rows(["Q"]), tmp_path / "plot.png", ("bag", "coat"))
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["bag", "coat"]
    assert drawn[0].axes[0].get_ylabel() == "mean realism"


def test_a_single_singular_value_is_a_point(drawn, tmp_path):
    tensors = RefinedTensor("a", (1, 4), (4.0,), (2.0,)), RefinedTensor("b", (2, 4), (4.0, 1.0), (2.0, 1.0))
    plotting.save_spectra_plot(RefineReport("sqrt", tensors, ()), tmp_path / "plot.png")
    one, two = drawn[0].axes
    assert all(line.get_marker() == "o" for line in one.lines) and all(line.get_marker() == "" for line in two.lines)
    assert one.get_xlabel() and one.get_ylabel()


@pytest.mark.parametrize("side, scale", [(28, 3), (32, 3), (64, 2), (256, 1)])
def test_small_images_are_enlarged(side, scale):
    assert image_grids.image_grid(torch.zeros(1, 1, side, side, dtype=torch.uint8), 1, padding=0).width == side * scale


def test_rows_of_classes():
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1)
    rows, starts = image_grids.class_rows(images, torch.tensor([0, 1, 0, 1, 0]), 2)
    assert rows.flatten().tolist() == [0, 2, 4, 255, 1, 3] and starts == [0, None, 1]
