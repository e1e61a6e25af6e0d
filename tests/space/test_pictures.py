# SPDX-License-Identifier: Apache-2.0
"""The pictures show the numbers that the metrics give."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from hf_ganzip.metrics import knn_precision_recall, lsh_precision_recall
from hf_ganzip.space.examples import load_example
from hf_ganzip.space.pictures import _region, curve_figure, region_figure, to_html, toy_points
from hf_ganzip.space.results import Settings, compare, curves


@pytest.mark.parametrize("k, planes, seed", [(1, 4, 4), (2, 1, 0), (5, 8, 3)])
def test_toy_picture_agrees_with_the_metrics(k, planes, seed):
    real, generated = toy_points()
    figure, values = region_figure(k, planes, seed)
    expected = lsh_precision_recall(real=real, generated=generated, k=k, num_hyperplanes=planes, draws=1, seed=seed)
    exact = knn_precision_recall(real=real, generated=generated, k=k)
    expected |= {f"knn_{name}": value for name, value in exact.items()}
    assert len(values) == 6 and values == {name: pytest.approx(expected[name]) for name in values}
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "Real and generated points" and titles[4].startswith(f"{planes} random")
    assert f"Precision (KNN): {round(16 * values['knn_precision'])} of 16" in titles


def test_default_toy_picture_makes_the_point_of_the_paper():
    """The bad samples count as real under KNN because of one outlier; hyperplanes put it into a region of its own."""
    _, values = region_figure()
    assert values["knn_precision"] > values["lsh_knn_precision"] + 0.3


def test_regions_are_cut_exactly():
    random = np.random.default_rng(0)
    normals, offsets = random.normal(size=(5, 2)), random.random(5)
    point = np.array([0.4, -0.2])
    corners = _region(point, (normals, offsets))
    sides = np.sign(normals @ point + offsets)
    assert len(corners) >= 3 and (sides * (corners @ normals.T + offsets) >= -1e-9).all()


def test_curves_agree_with_the_table():
    real, generated = load_example("Equal distributions (toy)")
    settings = Settings(draws=3)
    result = compare(real, generated, settings)
    columns = curves(real, generated, settings)
    at_k = columns["k"]["x"].index(3)
    for name in ("lsh_precision", "lsh_knn_recall", "knn_precision", "knn_recall"):
        assert columns["k"][name][at_k] == result[name]
    at_planes = columns["num_hyperplanes"]["x"].index(result["num_hyperplanes"])
    assert columns["num_hyperplanes"]["lsh_recall"][at_planes] == result["lsh_recall"]
    assert "knn_recall" not in columns["num_hyperplanes"]
    drawn = curve_figure(columns, result).axes
    assert [len(axes.get_lines()) for axes in drawn] == [4, 3, 4, 3]  # with the line at the setting


def test_curves_of_few_samples():
    random = np.random.default_rng(0)
    columns = curves(random.normal(size=(2, 1)), random.normal(size=(3, 1)), Settings(k=1, draws=1))
    assert all(len(values) == len(columns["k"]["x"]) for values in columns["k"].values())


def test_html_is_an_image_with_a_description():
    figure, _ = region_figure()
    html = to_html(figure, 'a "b" <c>')
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in html
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG" and image.width > 1000
