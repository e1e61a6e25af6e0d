# SPDX-License-Identifier: Apache-2.0
"""What the app's handlers answer, without a browser."""

import re
import runpy
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from hf_ganzip.core.shipped import metric_folders
from hf_ganzip.metrics import METRICS, frechet_distance, knn_precision_recall, lsh_precision_recall
from hf_ganzip.space import app
from hf_ganzip.space.examples import EXAMPLES, load_example
from hf_ganzip.space.page import pixel_features
from hf_ganzip.space.results import Settings, compare

from ..publishing.conftest import in_fresh_process


def values(html):
    """The numbers of a table by name."""
    return dict(re.findall(r'data-metric="(\w+)">([^<]+)<', html))


def compute(real=None, generated=None, example="Mode collapse (toy)", **changes):
    options = {"source": app.EXAMPLE, "metric": "lsh_precision_recall", "extractor": app.PIXELS}
    options |= {"k": 3, "planes": 0, "draws": 10, "seed": 0}
    return app.on_compute(example=example, real_file=real, generated_file=generated, **options | changes)


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    sides = random.normal(size=(80, 6)).astype("float32"), random.normal(size=(70, 6)).astype("float32")
    for name, side in zip(("real", "generated"), sides):
        np.save(tmp_path / f"{name}.npy", side)
    return sides, {name: str(tmp_path / f"{name}.npy") for name in ("real", "generated")}


def test_example_gives_the_numbers_of_the_functions():
    numbers, picture = compute()
    real, generated = load_example("Mode collapse (toy)")
    expected = lsh_precision_recall(real=real, generated=generated)
    expected |= {f"knn_{name}": value for name, value in knn_precision_recall(real=real, generated=generated).items()}
    shown = values(numbers)
    for name in ("lsh_precision", "lsh_recall", "lsh_knn_precision", "lsh_knn_recall", "knn_precision", "knn_recall"):
        assert shown[name] == f"{expected[name]:.4f}"
    assert "400 real and 400 generated samples of 16 features; k = 3, H = 9 hyperplanes" in numbers
    assert picture.startswith("<img") and "At most 1,000 samples" in picture


def test_uploads_give_the_numbers_of_the_functions(files):
    (real, generated), paths = files
    shown = values(compute(source=app.UPLOAD, **paths, k=2, planes=5, draws=4, seed=7)[0])
    expected = lsh_precision_recall(real=real, generated=generated, k=2, num_hyperplanes=5, draws=4, seed=7)
    assert shown["lsh_knn_recall"] == f"{expected['lsh_knn_recall']:.4f}"
    assert shown["frechet_distance"] == f"{frechet_distance(real=real, generated=generated)['frechet_distance']:.4f}"


@pytest.mark.parametrize(
    "mode, extractor, dim", [("RGB", app.PIXELS, 3072), ("L", app.PIXELS, 3072), ("L", app.FASHION, 128)]
)
def test_images_become_features(tmp_path, mode, extractor, dim):
    random = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(5):
            with archive.open(f"{i}.png", "w") as member:
                Image.fromarray(random.integers(0, 256, (28, 28, 3)).astype("uint8")).convert(mode).save(member, "png")
    features = app.features_of(str(tmp_path / "a.zip"), "real", extractor)
    assert features.shape == (5, dim) and features.dtype == np.float32 and 0 <= features.min()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": app.UPLOAD}, "Upload a file of real samples."),
        ({"k": 0}, "k is 0; allowed are whole numbers from 1 to 50."),
        ({"k": None}, "k is None; allowed are whole numbers"),
        ({"planes": 63}, "Hyperplanes is 63; allowed are whole numbers from 0 to 62."),
        ({"draws": 1e9}, "Draws is 1000000000.0; allowed are whole numbers from 1 to 20."),
        ({"seed": 0.5}, "Seed is 0.5; allowed are whole numbers"),
        ({"seed": float("nan")}, "Seed is nan; allowed are whole numbers"),
        ({"example": "<b>x"}, "Unknown example &#x27;&lt;b&gt;x&#x27;."),
    ],
)
def test_refusals_are_shown_as_one_line(changes, message):
    numbers, picture = compute(**changes)
    assert message in numbers and 'role="alert"' in numbers and picture == "" and "\n" not in numbers


def test_refused_uploads_are_shown(files, tmp_path):
    (real, _), paths = files
    np.save(tmp_path / "objects.npy", np.array([[1, "a"], [2, None]], dtype=object), allow_pickle=True)
    numbers, _ = compute(source=app.UPLOAD, real=str(tmp_path / "objects.npy"), generated=paths["generated"])
    assert "objects.npy: holds pickled Python objects" in numbers
    np.save(tmp_path / "narrow.npy", real[:, :4])
    numbers, _ = compute(source=app.UPLOAD, real=str(tmp_path / "narrow.npy"), generated=paths["generated"])
    assert "real has dimension 4 and generated has dimension 6" in numbers


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_repeatable(name):
    (real, generated), again = load_example(name), load_example(name)
    assert real.shape == generated.shape == (400, real.shape[1]) and real.dtype == generated.dtype == np.float32
    assert np.array_equal(real, again[0]) and np.array_equal(generated, again[1])


def test_examples_show_what_they_say():
    results = {name: compare(*load_example(name), Settings(draws=3)) for name in EXAMPLES}
    good, collapsed = results["Equal distributions (toy)"], results["Mode collapse (toy)"]
    assert collapsed["knn_precision"] > 0.7 > 0.5 > collapsed["knn_recall"] and good["knn_recall"] > 0.7
    assert results["Low quality (toy)"]["knn_precision"] < 0.2
    outliers = results["Outliers (toy)"]
    assert outliers["knn_precision"] > 0.6 and outliers["lsh_knn_precision"] < 0.1, "LSH+KNN resists, KNN does not"
    full, two = results["Fashion-MNIST, StyleGAN2"], results["Fashion-MNIST, StyleGAN2 at 2 bits"]
    assert full["knn_recall"] > two["knn_recall"] + 0.2


def test_distance_of_wide_features_is_left_out():
    random = np.random.default_rng(0)
    side = random.normal(size=(4, 2049)).astype("float32")
    assert compare(side, side, Settings(draws=1))["frechet_distance"] is None
    for dim in (1, 9):
        real, generated = random.normal(size=(4, dim)), random.normal(size=(5, dim))
        found = compare(real, generated, Settings(draws=1))["frechet_distance"]
        assert found == frechet_distance(real=real, generated=generated, allow_singular=True)["frechet_distance"] > 0


def test_toy_picture_describes_itself():
    assert 'alt="Regions and balls on points in the plane. lsh precision 0.69' in app.on_regions(1, 5, 2)


@pytest.mark.process
def test_every_metric_has_an_app(tmp_path):
    """In a process of its own: gradio leaves event loops behind, whose warnings would hit other tests."""
    pytest.importorskip("gradio_client", reason="gradio is not installed")
    code = (
        "from hf_ganzip.space.app import TITLES, build_app\n"
        "pages = list(map(build_app, TITLES))\n"
        "print([page.title for page in pages if not page.analytics_enabled])"
    )
    titles = [f"{title} of generated images" for title in app.TITLES.values()]
    assert in_fresh_process(code, tmp_path, without_us=False) == str(titles)


@pytest.mark.parametrize("metric", app.TITLES)
def test_the_metric_of_a_space_comes_first(metric):
    numbers, _ = compute(metric=metric)
    assert (numbers.index("<dl>") < numbers.index("<table>")) == (metric in ("density_coverage", "frechet_distance"))


def test_every_module_has_a_title():
    assert sorted(app.TITLES) == sorted(metric_folders()) and set(app.TITLES) < set(METRICS)


@pytest.mark.parametrize("metric", ["bogus", "kernel_distance"])  # the page does not show the second
def test_an_unknown_metric_is_one_line(monkeypatch, metric):
    monkeypatch.setattr(sys, "argv", ["space", metric])
    with pytest.raises(SystemExit, match=f"^Unknown metric '{metric}'.*lsh_precision_recall[^\n]*$"):
        runpy.run_module("hf_ganzip.space", run_name="__main__")


def test_pixels_do_not_depend_on_how_a_grey_image_is_stored():
    grey = np.random.default_rng(0).integers(0, 256, (28, 30, 1), np.uint8)
    first, second = pixel_features([grey, grey.repeat(3, axis=2)])
    assert np.array_equal(first, second) and first.std() > 0.1
    exact = pixel_features([np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)])
    assert np.array_equal(exact[0] * 255, np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8).ravel())
