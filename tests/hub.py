# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine: real HTTP for downloads of folders, each one repository with one revision."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LocalHub:
    """Serve ``{repository id: folder}`` while used as a context manager; ``url`` is its ``HF_ENDPOINT``."""

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = repositories
        self.requests: list[str] = []

    def __enter__(self) -> LocalHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self):
                hub.requests.append(f"{self.command} {self.path}")
                status, headers, body = hub.answer(urlsplit(self.path).path)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()

    def run(self, code: str, cache: Path) -> str:
        """Standard output of Python code in a fresh process that knows no other Hub."""
        names = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | names
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
        )
        assert found.returncode == 0, found.stderr[-3000:]
        return found.stdout

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        name = (api or file)[1] if api or file else None
        if name not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        folder = self.repositories[name]
        files = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
        commit = hashlib.sha1(name.encode()).hexdigest()
        if api:
            entries = [{"type": "file", "path": each, "size": (folder / each).stat().st_size} for each in files]
            info = {"id": name, "modelId": name, "sha": commit, "tags": [], "downloads": 0, "likes": 0}
            info |= {"private": False, "siblings": [{"rfilename": each} for each in files]}
            found = [entry | {"oid": "0"} for entry in entries] if api[2] == "tree" else info
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        if unquote(file[2]) not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        data = (folder / unquote(file[2])).read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data
