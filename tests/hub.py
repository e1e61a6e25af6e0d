# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine: real HTTP for repositories with commits, branches and pull requests; uploads, downloads, and
faults on demand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_" + "x" * 34
CUT = -1  # as a fault: the connection ends without an answer
HALF = -2  # as a fault: the connection ends in the middle of the body, of a PUT or of the answer to a GET
_LARGE = (".safetensors", ".png", ".whl")
_KINDS = {"models": "", "spaces": "spaces/", "datasets": "datasets/"}
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repository:
    """Branch -> commit, commit -> files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        digest = hashlib.sha1(repr((len(self.commits), branch, sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.branches[branch] = digest
        return digest

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


class LocalHub:
    """Serve repositories while used as a context manager; ``url`` is its ``HF_ENDPOINT``.

    Args:
        repositories: Id ("org/name", "spaces/org/name") -> folder that its first commit holds.

    ``faults`` maps a regular expression for "METHOD /path" to a list of statuses (or ``CUT``, ``HALF``), one per
    matching request; then requests pass.
    """

    def __init__(self, repositories: Mapping[str, Path] | None = None):
        self.repositories: dict[str, Repository] = {}
        for name, folder in (repositories or {}).items():
            files = {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
            self.repositories[name] = Repository()
            self.repositories[name].commit(files)
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: dict[str, list[int]] = {}

    def __enter__(self) -> LocalHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize, disable_nagle_algorithm = -1, True  # at once: the other side waits 40 ms to acknowledge a part

            def log_message(self, *args):
                pass

            def respond(self):
                length = int(self.headers.get("Content-Length") or 0)
                hub.requests.append(f"{self.command} {self.path}")
                fault = hub.fault(self.command, self.path)
                half = fault is not None and fault[0] == HALF
                body = self.rfile.read(length // 2 if half else length)
                self.close_connection = half or fault is not None and fault[0] == CUT
                if self.close_connection and not (half and self.command == "GET"):
                    return
                authorization = self.headers.get("Authorization", "")
                answer = fault if fault and not half else hub.answer(self.command, self.path, authorization, body)
                status, headers, data = _part(answer, self.headers.get("Range"))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if half else data)

            do_GET = do_HEAD = do_POST = do_PUT = respond

        self.cache = tempfile.TemporaryDirectory()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        soon = 0.02  # seconds until it ends
        threading.Thread(target=self.server.serve_forever, args=(soon,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.cache.cleanup()

    def environment(self, cache: Path) -> dict[str, str]:
        """For a process that knows no other Hub."""
        names = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        return {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")} | names | {"HF_TOKEN": TOKEN}

    def run(self, code: str, cache: Path) -> str:
        """Standard output of Python code in a fresh process that knows no other Hub."""
        options = {"env": self.environment(cache), "capture_output": True, "text": True, "timeout": 200}
        found = subprocess.run([sys.executable, "-c", code], **options)
        assert found.returncode == 0, found.stderr[-3000:]
        return found.stdout

    def use(self, monkeypatch) -> None:
        """Let this process talk to no other Hub, and keep what it downloads until the end."""
        from huggingface_hub import constants

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        changes = {"HF_HUB_CACHE": self.cache.name, "ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        for name, value in (changes | {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}).items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    # -- answers ------------------------------------------------------------------------------------------------------

    def fault(self, method: str, path: str) -> Answer | None:
        for pattern, statuses in self.faults.items():
            if statuses and re.search(pattern, f"{method} {path}"):
                status = statuses.pop(0)
                return status, {}, b'{"error": "as ordered"}'
        return None

    def answer(self, method: str, target: str, authorization: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        allowed = authorization == f"Bearer {TOKEN}"
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                return _error(400, "BadRequest")
            self.blobs[match[1]] = body
            return _json({})
        if path == "/api/whoami-v2":
            return _json({"type": "user", "name": "me", "orgs": []}) if allowed else _error(401, "Unauthorized")
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body)) if allowed else _error(401, "Unauthorized")
        if match := re.fullmatch(r"/((?:spaces/|datasets/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.lfs_batch(json.loads(body))
        if match := re.fullmatch(r"/((?:spaces/|datasets/)?[^/]+/[^/]+)/resolve/(.+)", path):
            return self.file(match[1], match[2]) if allowed or self.public(match[1]) else _error(401, "RepoNotFound")
        if match := re.fullmatch(r"/api/(models|spaces|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/(.+))?)?", path):
            name = _KINDS[match[1]] + match[2]
            if name not in self.repositories:
                return _error(404, "RepoNotFound")
            if not allowed and (method == "POST" or not self.public(name)):
                return _error(401, "Unauthorized" if self.public(name) else "RepoNotFound")
            return self.api(name, match[3] or "revision", match[4] or "main", query, body)
        return _error(404, "NotFound")

    def public(self, name: str) -> bool:
        return name not in self.repositories or not self.repositories[name].private

    def create(self, wanted: dict) -> Answer:
        kind = {"space": "spaces/", "dataset": "datasets/"}.get(wanted.get("type"), "")
        short = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        name, url = kind + short, f"{self.url}/{kind}{short}"
        if name in self.repositories:
            return _json({"error": "You already created this repository", "url": url}, 409)
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.repositories[name] = Repository(private)
        self.repositories[name].commit({})
        return _json({"url": url, "name": short})

    def lfs_batch(self, wanted: dict) -> Answer:
        objects = []
        for each in wanted["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.blobs:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}
            objects.append(entry)
        return _json({"transfer": "basic", "objects": objects})

    def file(self, name: str, rest: str) -> Answer:
        if name not in self.repositories:
            return _error(404, "RepoNotFound")
        repository = self.repositories[name]
        revision, file = _revision_and_path(rest)
        commit = repository.find(revision)
        if commit is None:
            return _error(404, "RevisionNotFound")
        data = repository.commits[commit].get(file)
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data

    def api(self, name: str, action: str, argument: str, query: dict, body: bytes) -> Answer:
        repository = self.repositories[name]
        if action == "branch":
            if argument in repository.branches:
                return _json({"error": "exists"}, 409)
            repository.branches[argument] = repository.branches["main"]
            return _json({})
        if action == "preupload":
            paths = [each["path"] for each in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in paths}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return _json({"files": files})
        if action == "commit":
            return self.commit(name, argument, query, body)
        revision, folder = _revision_and_path(argument)
        commit = repository.find(revision)
        if commit is None:
            return _error(404, "RevisionNotFound")
        files = repository.commits[commit]
        if action == "tree":
            return self.tree(files, folder, query.get("recursive") == ["true"])
        if action == "paths-info":
            wanted = [unquote(each) for each in parse_qs(body.decode()).get("paths", [])]
            return _json([_entry(path, files[path]) for path in wanted if path in files])
        info = {"id": name, "modelId": name, "sha": commit, "tags": [], "downloads": 0, "likes": 0}
        info |= {"private": repository.private, "siblings": [{"rfilename": each} for each in sorted(files)]}
        if card := re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL):
            info["cardData"] = yaml.safe_load(card[1])
        return _json(info)

    def tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> Answer:
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            return _error(404, "EntryNotFound")
        depth = len(folder.split("/")) if folder else 0
        found = [_entry(path, data) for path, data in sorted(inside.items()) if recursive or path.count("/") == depth]
        names = {"/".join(path.split("/")[: depth + 1]) for path in inside if path.count("/") > depth}
        folders = [{"type": "directory", "path": each, "oid": "0" * 40, "size": 0} for each in sorted(names)]
        return _json(found + folders)

    def commit(self, name: str, branch: str, query: dict, body: bytes) -> Answer:
        repository = self.repositories[name]
        parent = repository.find(branch)
        if parent is None:
            return _error(404, "RevisionNotFound")
        files = dict(repository.commits[parent])
        for line in filter(None, body.splitlines()):
            each = json.loads(line)
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif each["key"] == "deletedFile":
                files.pop(value["path"])
        found = {"success": True, "hookOutput": "", "pullRequestUrl": None}
        if query.get("create_pr") == ["1"]:
            number = 1 + sum(each.startswith("refs/pr/") for each in repository.branches)
            branch = f"refs/pr/{number}"
            found["pullRequestUrl"] = f"{self.url}/{name}/discussions/{number}"
        commit = repository.commit(files, branch)
        return _json(found | {"commitOid": commit, "commitUrl": f"{self.url}/{name}/commit/{commit}"})


def _part(answer: Answer, wanted: str | None) -> Answer:
    """The bytes that a Range header ("bytes=START-") asks for, of a complete answer."""
    status, headers, data = answer
    if status != 200 or not (match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")):
        return answer
    start, end = int(match[1]), int(match[2] or len(data) - 1) + 1
    return 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end]


def _revision_and_path(rest: str) -> tuple[str, str]:
    """ "refs/pr/1/a/b" -> ("refs/pr/1", "a/b"); "main/a" -> ("main", "a")."""
    parts = rest.split("/")
    length = 3 if rest.startswith("refs/") else 1
    return "/".join(parts[:length]), "/".join(parts[length:])


def _entry(path: str, data: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _json(value: object, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(status: int, code: str) -> Answer:
    return status, {"X-Error-Code": code, "Content-Type": "application/json"}, json.dumps({"error": code}).encode()
