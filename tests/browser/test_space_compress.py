# SPDX-License-Identifier: Apache-2.0
"""The compression Space in a real browser."""

import io

import numpy as np
import pytest
from PIL import Image

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.sampling import sample_images

from ..hub import LocalHub
from ..space.serving import served
from .conftest import press


pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """The app beside a local Hub with one public generator."""
    folder = tmp_path_factory.mktemp("space")
    with LocalHub({"org/generator": asset_path("stylegan2-fashion-mnist")}) as hub:
        environment = hub.environment(folder / "cache")
        with served("examples/space_compress/app.py", folder, environment) as found:
            yield found


def compress(page, outcome="[data-metric=bytes]"):
    press(page, "#compress", "#figures", outcome)


def shown(page, name):
    return [page.inner_text(f"[data-metric={name}][data-side={side}]") for side in ("full", "compressed")]


def choose(page, label, option):
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()


def bits(page, value):
    page.get_by_label("number input for Bits").fill(str(value))
    page.keyboard.press("Tab")


def pictures(page):
    page.wait_for_function(
        "[...document.querySelectorAll('#pictures img')].filter(i => i.complete && i.naturalWidth).length >= 2"
    )
    found = page.evaluate("[...document.querySelectorAll('#pictures img')].map(i => i.src)")
    return [np.asarray(Image.open(io.BytesIO(page.request.get(each).body())).convert("L")) for each in found[:2]]


def test_bundled_generator_at_two_settings(page):
    sizes, differences = [], []
    for count in (8, 2):
        bits(page, count)
        compress(page)
        full, compressed = shown(page, "bytes")
        sizes.append(compressed)
        before, after = pictures(page)
        assert before.shape == after.shape
        differences.append(np.abs(before.astype(int) - after).mean())
        precision = [float(value) for value in shown(page, "knn_precision")]
        assert all(0 <= value <= 1 for value in precision)
    assert sizes[0] != sizes[1] and differences[0] < 1 < 5 < differences[1], "8 bits look the same, 2 bits do not"
    assert precision[0] > precision[1] + 0.2, "2 bits cost quality"
    model = gz.load_model(asset_path("stylegan2-fashion-mnist"))
    images, _ = sample_images(model, 1, progress=False)
    scale = before.shape[1] // (5 * 33 + 1)
    first = before[::scale, ::scale][1:33, 1:33]
    assert np.array_equal(first, images[0, 0]), "the left picture shows the full generator, seed 0"
    assert "QuantizeConfig" in page.inner_text("#code")


def test_generator_of_the_hub_and_refusals(page):
    choose(page, "Generator", "A generator on the Hub")
    page.get_by_label("Model id").fill("org/generator")
    bits(page, 4)
    compress(page)
    assert "other images of the full generator" in page.inner_text("#figures")
    for wrong, message in (
        ("../../etc", "'../../etc' is no model id of the Hub; write owner/name."),
        ("org/none", "org/none is not on the Hub, or not public."),
    ):
        page.get_by_label("Model id").fill(wrong)
        compress(page, outcome="[role=alert]")
        assert page.inner_text("#figures") == message
        assert not page.locator("#pictures").is_visible()
