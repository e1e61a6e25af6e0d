# SPDX-License-Identifier: Apache-2.0
"""An export as a web page: page, script and onnxruntime-web beside the file, a static Space as it stands."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from .exporter import CONFIG, FILE, export
from .report import ExportReport


VERSION = "1.30.0"  # of onnxruntime-web
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
_CDN = "https://cdn.jsdelivr.net"
_RUNTIME = (  # of the package, for browsers with WebGPU and for others
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_SAMPLER = {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": True}


def export_web(
    model: ModelMixin,
    folder: str | Path,
    *,
    title: str | None = None,
    class_names: Sequence[str] = (),
    cdn: bool = False,
    runtime: str | Path | None = None,
    **options: Any,
) -> ExportReport:
    """:func:`.export` into a folder that is a web page, too, and a static Space.

    Args:
        model: Generator of images from latents, or a ``UNet2DModel`` that predicts noise on the usual schedule of
            1,000 linear steps.
        folder: New folder.
        title: Of the page; None: the class.
        class_names: One for every class.
        cdn: Link onnxruntime-web from jsDelivr instead of copying it (41 MB), so that the page needs a connection.
        runtime: The archive ``onnxruntime-web-1.30.0.tgz``; None: ``npm pack`` gets it.
        **options: Of :func:`.export`.

    Raises:
        ValueError: A model that the page cannot draw, names that are not one per class, another archive, or what
            :func:`.export` raises.
        FileNotFoundError: npm is not installed, and no archive is given.
        ConnectionError: npm could not get the package.
    """
    name, config = type(model).__name__, model.config
    classes = config.get("num_classes") or config.get("num_class_embeds") or 0
    if not hasattr(model, "draw_latents") and name != "UNet2DModel":
        raise ValueError(f"web: a {name} draws no images by itself; allowed are generators and UNet2DModel.")
    class_names = class_names if classes else ()
    if class_names and len(class_names) != classes:
        raise ValueError(f"class_names has {len(class_names)} entries; the {name} has {classes} classes.")
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as parent:
        archive = None if cdn else runtime_archive(Path(parent), runtime)
        report = export(model, folder, **options)
        if archive is not None:
            _unpack(archive, folder / "runtime")
    _write_page(folder, title or name, _CDN if cdn else "")
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    saved["export"] |= {"title": title or name, "class_names": list(class_names)}
    saved["export"]["truncates_latents"] = bool(getattr(model, "truncates_only_latents", False))
    own = {"num_ws": getattr(model, "num_ws", 0)} if hasattr(model, "draw_latents") else {"sampler": _SAMPLER}
    saved["export"] |= own
    (folder / CONFIG).write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    return report


def runtime_archive(folder: Path, given: str | Path | None = None) -> Path:
    """The npm package of onnxruntime-web, checked against its SHA-256: the given one, or from npm into ``folder``.

    Raises:
        FileNotFoundError: npm, or the archive that was given, is missing.
        ConnectionError: npm failed.
        ValueError: Another archive.
    """
    archive = folder / _ARCHIVE if given is None else Path(given)
    if given is None:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(
                f"web: npm is not installed, which gets onnxruntime-web; install Node.js, download {_ARCHIVE} and "
                "give it as runtime=, or link it with cdn=True."
            )
        command = [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ConnectionError(f"web: npm could not get onnxruntime-web {VERSION}: {done.stderr.strip()[-300:]}")
    if not archive.is_file():
        raise FileNotFoundError(f"runtime is {archive}, which is no file; allowed is {_ARCHIVE}.")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _SHA256:
        raise ValueError(f"runtime is {archive}, which is not onnxruntime-web {VERSION} (SHA-256 {_SHA256}).")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive) as opened:
        for name in _RUNTIME:
            source = opened.extractfile(f"package/dist/{name}")
            with open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target)  # type: ignore[arg-type]


def _write_page(folder: Path, title: str, hosts: str) -> None:
    place = f"{_CDN}/npm/onnxruntime-web@{VERSION}/dist/" if hosts else "./runtime/"
    source = Path(__file__).parent / "web"
    page = (source / "index.html").read_text(encoding="utf-8")
    page = page.replace("{title}", escape(title)).replace("{hosts}", hosts)
    (folder / "index.html").write_text(page, encoding="utf-8")
    script = (source / "script.js").read_text(encoding="utf-8").replace("{runtime}", place)
    (folder / "script.js").write_text(script, encoding="utf-8")
    head = {"title": title, "emoji": "🖼️", "colorFrom": "blue", "colorTo": "gray", "sdk": "static", "pinned": False}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]
    about = (
        f"An ONNX file ({FILE}) that is run in the browser by onnxruntime-web {VERSION} (MIT licence); exported by "
        "hf_ganzip."
    )
    text = "\n".join(["---", *lines, "---", "", f"# {title}", "", about, ""])
    (folder / "README.md").write_text(text, encoding="utf-8")
