# SPDX-License-Identifier: Apache-2.0
"""Folders of pages; tests/browser opens them."""

import json

import pytest

import hf_ganzip as gz
from hf_ganzip.exporting import web_page
from hf_ganzip.exporting.web_page import export_web, runtime_archive
from hf_ganzip.publishing.spaces import push_page

from ..conftest import tiny_generator, tiny_ugatit


@pytest.mark.process
def test_a_linked_page_and_its_push(call, done, folder, tmp_path):
    done("export", folder, tmp_path / "page", "--web", "--cdn", "--title", "A <b>", "--checks", "1", "-q")
    files = {path.name for path in (tmp_path / "page").iterdir()}
    assert files == {"model.onnx", "config.json", "index.html", "script.js", "README.md"}
    page, script = ((tmp_path / "page" / name).read_text() for name in ("index.html", "script.js"))
    assert "<title>A &lt;b&gt;</title>" in page and "{" + "title}" not in page
    assert f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{web_page.VERSION}/dist/" in script
    config = json.loads((tmp_path / "page" / "config.json").read_text())["export"]
    assert config["num_ws"] == 6 and config["title"] == "A <b>"
    assert gz.OnnxGenerator.from_pretrained(tmp_path / "page").num_ws == 6
    out = done("push", tmp_path / "page", "me/page", "--space", "static", "--dry-run")
    assert "index.html" in out and "the Space would be me/page" in out
    for options, said in (
        (["--space", "docker"], "allowed are static and gradio"),
        (["--space", "gradio"], "is no Gradio Space: it has no app.py"),
        (["--space", "static", "--title", "A"], "leave out --title"),
        (["--space", "static", "--samples", "3"], "leave out --samples"),
    ):
        code, _, err = call("push", tmp_path / "page", "me/page", *options)
        assert code == 1 and said in err


def test_what_is_no_page_and_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is no page: it has no index.html"):
        push_page(tmp_path, "me/page", dry_run=True)
    with pytest.raises(ValueError, match="a UGATITGenerator draws no images by itself"):
        export_web(tiny_ugatit(), tmp_path / "out", cdn=True)
    with pytest.raises(ValueError, match="class_names has 1 entries; the StyleGAN2Generator has 3 classes"):
        export_web(tiny_generator(), tmp_path / "out", class_names=["a"], cdn=True)
    (tmp_path / "other.tgz").write_bytes(b"")
    with pytest.raises(ValueError, match="which is not onnxruntime-web"):
        runtime_archive(tmp_path, tmp_path / "other.tgz")
    with pytest.raises(FileNotFoundError, match="which is no file"):
        runtime_archive(tmp_path, tmp_path / "none.tgz")
    monkeypatch.setattr(web_page.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="npm is not installed"):
        export_web(tiny_generator(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
