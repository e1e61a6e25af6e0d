# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, started as their users start them. Needs playwright and an installed Chromium or Chrome."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def press(page, button, place, outcome):
    """Press a button and wait for what answers, in the place of the answer before."""
    page.evaluate(
        f"document.querySelector('{place}').querySelectorAll('[data-metric], .note').forEach(e => e.remove())"
    )
    page.click(button)
    page.wait_for_selector(f"{place} {outcome}")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("gradio_client", reason="gradio is not installed")
    with playwright.sync_playwright() as started:
        path = CHROMIUM or started.chromium.executable_path  # playwright's own, if it was installed
        if not Path(path).is_file():
            pytest.skip("no Chromium or Chrome is installed; apt-get install chromium, or playwright install chromium")
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture
def page(browser, address):
    """The app's page; at the end nothing may have gone elsewhere, and no script may have failed."""
    page = browser.new_page(viewport={"width": 1280, "height": 1150})
    page.set_default_timeout(60_000)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.wait_for_selector("button.primary")
    yield page
    page.close()
    assert hosts <= {"127.0.0.1", None} and not errors  # None: data: and blob: addresses
