# SPDX-License-Identifier: Apache-2.0
"""Exported pages in a real browser. Needs onnxruntime-web: ``npm pack`` gets it, or ``ONNXRUNTIME_WEB`` names the
archive.
"""

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.assets import class_names
from hf_ganzip.exporting.web_page import export_web, runtime_archive


pytestmark = pytest.mark.process


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def archive(browser, tmp_path_factory):
    given = os.environ.get("ONNXRUNTIME_WEB")
    try:
        return runtime_archive(tmp_path_factory.mktemp("npm"), given)
    except (FileNotFoundError, ConnectionError) as error:
        pytest.skip(f"onnxruntime-web is not here: {error}")


@pytest.fixture(scope="module")
def folders(archive, tmp_path_factory):
    """Name -> folder of the page of a bundled model of 8 bits."""
    found = {}
    for name in ("stylegan2-fashion-mnist", "ddpm-fashion-mnist"):
        model = gz.load_model(name)
        gz.quantize_(model, bits=8)
        found[name] = tmp_path_factory.mktemp("pages") / name
        export_web(model, found[name], title=name, class_names=class_names(name), runtime=archive, checks=1)
        found[f"{name} model"] = model
    return found


@pytest.fixture
def opened(browser, folders):
    """Open the page of a model; at the end nothing may have gone elsewhere, and no error may have been logged."""
    pages, problems = [], []

    def open_page(name, width=1000, height=800):
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folders[name]))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((address, "blob:", "data:")) else problems.append(request.url)
            ),
        )
        page.goto(address)
        page.wait_for_function("globalThis.drawn")
        pages.append((page, server))
        return page

    yield open_page
    for page, server in pages:
        page.close()
        server.shutdown()
        server.server_close()
    assert not problems


def pixels(page):
    """Grey values (H, W) on the canvas."""
    found = page.evaluate(
        "(() => { const c = document.querySelector('canvas'), context = c.getContext('2d');"
        " return [c.height, c.width, ...context.getImageData(0, 0, c.width, c.height).data] })()"
    )
    height, width, *values = found
    return np.array(values).reshape(height, width, 4)[:, :, 0]


def settle(page, condition):
    page.wait_for_function(f"globalThis.drawn && ({condition})")


def in_torch(model, page):
    """What torch draws of the latent that the page took, as grey values."""
    feeds = page.evaluate(
        "({z: Array.from(drawn.feeds.z.data), rows: Array.from(drawn.feeds.class_labels.data),"
        " psi: drawn.settings.truncation})"
    )
    z, rows = torch.tensor([feeds["z"]]), torch.tensor([feeds["rows"]])
    with torch.no_grad():
        image = model(z, rows, truncation_psi=feeds["psi"], noise_mode="const").sample
    return ((image[0, 0] + 1) * 127.5).round().clamp(0, 255).numpy()


def test_a_generator_draws_what_torch_draws(opened, folders):
    page, model = opened("stylegan2-fashion-mnist"), folders["stylegan2-fashion-mnist model"]
    first = pixels(page)
    assert np.abs(first - in_torch(model, page)).max() <= 2 and first.std() > 20
    page.get_by_label("Class").select_option("sneaker")
    settle(page, "drawn.settings.label === 7")
    sneaker = pixels(page)
    assert np.abs(sneaker - in_torch(model, page)).max() <= 2 and np.abs(sneaker - first).max() > 50
    page.get_by_label("Truncation").fill("0.4")
    settle(page, "drawn.settings.truncation === 0.4")
    truncated = pixels(page)
    assert np.abs(truncated - in_torch(model, page)).max() <= 2 and (truncated != sneaker).any()
    page.get_by_label("Towards the next seed").fill("0.5")
    settle(page, "drawn.settings.blend === 0.5")
    assert (pixels(page) != truncated).any()
    assert "ms per image" in page.inner_text("#time") and "MB" in page.inner_text("#size")


def test_by_keyboard_alone_and_on_a_small_screen(opened):
    page = opened("stylegan2-fashion-mnist", width=360, height=640)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("canvas").bounding_box()["width"] > 250
    page.locator("#seed").focus()
    page.keyboard.press("ArrowUp")
    settle(page, "drawn.settings.seed === 1")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "truncation"
    page.keyboard.press("ArrowLeft")
    settle(page, "drawn.settings.truncation === 0.95")
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the next seed
    settle(page, "drawn.settings.seed === 2")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    settle(page, "drawn.settings.blend > 0")
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="Walk").get_attribute("aria-pressed") == "false"


def test_a_diffusion_model_denoises_to_what_torch_denoises_to(opened, folders):
    page, model = opened("ddpm-fashion-mnist"), folders["ddpm-fashion-mnist model"]
    page.get_by_label("Steps of denoising").fill("5")
    settle(page, "drawn.settings.steps === 5")
    side = model.config.sample_size
    state = torch.tensor(page.evaluate("drawn.noise")).view(1, 1, side, side)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    with torch.no_grad():
        for now in range(800, -1, -200):
            noise = model(state, now).sample
            here, after = float(kept[now]), float(kept[now - 200]) if now else 1.0
            image = ((state - (1 - here) ** 0.5 * noise) / here**0.5).clamp(-1, 1)
            noise = (state - here**0.5 * image) / (1 - here) ** 0.5
            state = after**0.5 * image + (1 - after) ** 0.5 * noise
    expected = ((state[0, 0] + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(pixels(page) - expected).max() <= 2 and expected.std() > 20


def test_the_bundled_generator_is_below_a_megabyte(folders):
    folder = folders["stylegan2-fashion-mnist"]
    own = [file for file in folder.iterdir() if file.is_file()]
    assert {"index.html", "script.js", "model.onnx", "config.json", "README.md"} == {file.name for file in own}
    assert sum(file.stat().st_size for file in own) < 1_000_000
    assert 'sdk: "static"' in (folder / "README.md").read_text()
