# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, started as their users start them. Needs playwright and an installed Chromium or Chrome."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest


ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def served(script, folder, environment=None):
    """Address of a Space's ``app.py`` on a free port; at the end its log may hold no traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = (environment or os.environ) | {"PYTHONPATH": str(ROOT), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"NO_PROXY": "127.0.0.1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    log = folder / "app.txt"
    with open(log, "wb") as output:
        app = subprocess.Popen(
            [sys.executable, str(ROOT / script)], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert app.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        app.terminate()
        app.wait(timeout=30)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("gradio_client", reason="gradio is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome is installed")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


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
