# SPDX-License-Identifier: Apache-2.0
"""The metric Space in a real browser."""

import pickle

import numpy as np
import pytest

from hf_ganzip.metrics import knn_precision_recall, lsh_precision_recall
from hf_ganzip.space.examples import load_example

from ..space.serving import served
from .conftest import press


pytestmark = pytest.mark.process


PAIRS = ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall", "knn_precision", "knn_recall")


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """The app of the LSH Space on a free port."""
    with served("metrics_hub/lsh_precision_recall/app.py", tmp_path_factory.mktemp("space")) as found:
        yield found


def shown(page):
    return {name: page.inner_text(f"[data-metric={name}]") for name in PAIRS}


def compute(page):
    press(page, "#compute", "#numbers", "[data-metric=lsh_precision]")
    return shown(page)


def expected(real, generated, **options):
    values = lsh_precision_recall(real=real, generated=generated, **options)
    exact = knn_precision_recall(real=real, generated=generated, k=options.get("k", 3))
    values |= {f"knn_{name}": value for name, value in exact.items()}
    return {name: f"{values[name]:.4f}" for name in PAIRS}


def test_example(page):
    page.get_by_label("Example", exact=True).click()
    page.get_by_role("option", name="Outliers (toy)").click()
    assert compute(page) == expected(*load_example("Outliers (toy)"))
    page.wait_for_selector("#curves img")
    page.get_by_role("tab", name="How it works").click()
    page.wait_for_selector("#regions img >> visible=true")


def test_settings_by_keyboard_alone(page):
    k = page.get_by_label("k", exact=True)
    k.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("5")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "compute":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#numbers [data-metric=lsh_precision]")
    assert shown(page) == expected(*load_example("Mode collapse (toy)"), k=5)


def test_uploads_and_a_hostile_one(page, tmp_path):
    random = np.random.default_rng(1)
    sides = {
        name: random.normal(size=(count, 8)).astype("float32") for name, count in (("real", 90), ("generated", 70))
    }
    page.get_by_label("My own files").check()
    for name, side in sides.items():
        np.save(tmp_path / f"{name}.npy", side)
        page.locator(f"#{name} input[type=file]").set_input_files(tmp_path / f"{name}.npy")
        page.wait_for_selector(f"#{name} >> text={name[:4]}")
    page.wait_for_function("document.querySelectorAll('#real .file-preview, #generated .file-preview').length == 2")
    assert compute(page) == expected(**sides)

    (tmp_path / "evil.npy").write_bytes(pickle.dumps(print))
    page.locator("#real").get_by_label("Clear").click()
    page.locator("#real input[type=file]").set_input_files(tmp_path / "evil.npy")
    page.wait_for_function("document.querySelectorAll('#real .file-preview').length == 1")
    press(page, "#compute", "#numbers", "[role=alert]")
    assert page.inner_text("#numbers") == "evil.npy: is no .npy file of numbers; write it with numpy.save."

    page.get_by_label("Built-in example").check()
    assert compute(page) == expected(*load_example("Mode collapse (toy)"))
