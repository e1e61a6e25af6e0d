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


def bits(page, value):
    page.get_by_label("number input for Bits").fill(str(value))
    page.keyboard.press("Tab")


def pictures(page):
    page.wait_for_function(
        "[...document.querySelectorAll('#pictures img')].filter(i => i.complete && i.naturalWidth).length >= 2"
    )
    found = page.evaluate("[...document.querySelectorAll('#pictures img')].map(i => i.src)")
    return [np.asarray(Image.open(io.BytesIO(page.request.get(each).body())).convert("L")) for each in found[:2]]


def test_a_bundled_generator(page):
    bits(page, 8)
    compress(page)
    model = gz.load_model(asset_path("stylegan2-fashion-mnist"))
    images, _ = sample_images(model, 1, progress=False)
    report = gz.quantize_(model, "linear", bits=8)
    assert page.inner_text("[data-metric=bytes][data-side=compressed]") == f"{report.bytes_after / 1024:,.0f} KiB"
    before, after = pictures(page)
    assert before.shape == after.shape and np.abs(before.astype(int) - after).mean() < 1, "8 bits look the same"
    scale = before.shape[1] // (5 * 33 + 1)
    first = before[::scale, ::scale][1:33, 1:33]
    assert np.array_equal(first, images[0, 0]), "the left picture shows the full generator, seed 0"
    assert "QuantizeConfig" in page.inner_text("#code")


def test_generator_of_the_hub_and_refusals(page):
    page.get_by_label("Generator", exact=True).click()
    page.get_by_role("option", name="A generator on the Hub").click()
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
