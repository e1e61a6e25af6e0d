# SPDX-License-Identifier: Apache-2.0
"""A Space's ``app.py``, started as its users start it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener


ROOT = Path(__file__).parents[2]
OPENER = build_opener(ProxyHandler({}))


@contextlib.contextmanager
def served(script, folder, environment=None, python=sys.executable, ours=True):
    """Address of a Space's ``app.py`` on a free port, with this package importable if ``ours``; at the end its log may
    hold no traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"PYTHONPATH": str(ROOT) if ours else "", "NO_PROXY": "127.0.0.1"}
    changes |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "uploads")}
    environment = (environment or os.environ) | changes
    log = folder / "app.txt"
    with open(log, "wb") as output:
        app = subprocess.Popen([python, str(ROOT / script)], env=environment, stdout=output, stderr=subprocess.STDOUT)
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
