# SPDX-License-Identifier: Apache-2.0
"""What the served pages refuse over HTTP, past what a browser would send."""

import json
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from hf_ganzip.space.uploads import LIMITS

from .serving import OPENER, ROOT, served


pytestmark = pytest.mark.process


pytest.importorskip("gradio_client", reason="gradio is not installed")

PAGES = {
    "metrics_hub/lsh_precision_recall/app.py": (
        ["Built-in example", "Mode collapse (toy)", None, None, "Pixels, resized to 32x32", 3, 0, 10, 0],
        LIMITS.file_bytes,
    ),
    "examples/space_compress/app.py": (["StyleGAN2, Fashion-MNIST", "", "Linear (Q)", 3, 64, 0, True], 2**10),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    """Script, address and folder of uploads."""
    folder = tmp_path_factory.mktemp("page")
    with served(request.param, folder) as address:
        yield request.param, address, folder / "uploads"


def config_of(address):
    with OPENER.open(f"{address}config", timeout=60) as answer:
        return json.loads(answer.read())


def ask(address, path, data=None, kind="application/json"):
    """Status and body."""
    request = Request(f"{address}gradio_api/{path}", data, {"Content-Type": kind})
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "%2fetc%2fpasswd",
        "/proc/self/environ",
        "{script}",
        "https://example.com",
        "file:///etc/passwd",
    ],
)
def test_no_file_of_the_machine_is_served(page, path):
    script, address, _ = page
    status, body = ask(address, f"file={path.replace('{script}', str(ROOT / script))}")
    assert status in (403, 404) and b"root:" not in body and b"import" not in body


def test_uploads_above_the_limit_are_refused(page):
    script, address, uploads = page
    most = PAGES[script][1]
    assert config_of(address)["max_file_size"] == most
    if most > 2**20:
        return  # sending so much takes too long
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.npy"\r\n\r\n%b\r\n--b--\r\n'
    status, body = ask(address, "upload", form % bytes(most + 2**20), "multipart/form-data; boundary=b")
    assert status == 413 and b"exceeded maximum allowed size" in body
    assert sum(file.stat().st_size for file in uploads.rglob("*") if file.is_file()) <= most


def test_sixteen_wait_and_more_are_refused(page):
    script, address, _ = page
    config = config_of(address)
    button = next(
        each["id"] for each in config["components"] if each["props"].get("elem_id") in ("compute", "compress")
    )
    function = next(each["id"] for each in config["dependencies"] if [button, "click"] in each["targets"])
    statuses = []
    for visitor in range(24):
        job = {"data": PAGES[script][0], "fn_index": function, "session_hash": f"visitor{visitor}"}
        statuses.append(ask(address, "queue/join", json.dumps(job).encode())[0])
    assert 16 <= statuses.count(200) <= 20 and set(statuses) == {200, 503}, "a few may have been served meanwhile"
