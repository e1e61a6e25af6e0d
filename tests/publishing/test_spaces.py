# SPDX-License-Identifier: Apache-2.0
"""Spaces, by real HTTP: what is uploaded, and that it runs where nothing of ours is installed; test_commands.py loads
the metrics.
"""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import diffusers
import pytest
import yaml
from huggingface_hub import snapshot_download
from packaging.requirements import Requirement

import hf_ganzip
from hf_ganzip.core.shipped import metric_folders
from hf_ganzip.publishing.spaces import _on_pypi, push_demo, push_metrics
from hf_ganzip.publishing.wheel import requirements_of, write_wheel

from ..space.serving import OPENER, served


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")
SOURCE = "https://example.org/me/hf_ganzip"


def head_of(readme: bytes) -> dict:
    return yaml.safe_load(readme.decode().split("---\n")[1])


def test_each_is_a_space_in_one_commit(hub, small_wheel):
    found = push_metrics("me", repository=SOURCE)
    assert set(found) == {f"me/{name}" for name in metric_folders()}
    for name, entry in found.items():
        repository = hub.repositories[f"spaces/{name}"]
        assert sorted(repository.files) == entry["files"] and not repository.private
        needed = {"README.md", "app.py", "start.py", "requirements.txt", "thumbnail.png", name[3:] + ".py"}
        assert needed | {"hf_ganzip-0-py3-none-any.whl"} <= set(entry["files"])
        assert "tests.py" not in entry["files"] and len(repository.commits) == 2
        head, readme = head_of(repository.files["README.md"]), repository.files["README.md"].decode()
        assert head["app_file"] == "start.py" and len(head["short_description"]) <= 60 and head["title"]
        assert head["thumbnail"] == f"{hub.url}/spaces/{name}/resolve/main/thumbnail.png"
        assert f"<{SOURCE}>" in readme and entry["install"] in readme


def test_a_new_version_takes_the_place_of_the_old_one(hub, small_wheel):
    push_metrics("me", ["density_coverage"])
    repository = hub.repositories["spaces/me/density_coverage"]
    repository.commit(repository.files | {"hf_ganzip-0.0-py3-none-any.whl": b"old"})
    push_metrics("me", ["density_coverage"])
    assert [name for name in repository.files if name.endswith(".whl")] == ["hf_ganzip-0-py3-none-any.whl"]


def test_a_dry_run_sends_nothing_and_bad_names_are_refused(hub, small_wheel):
    assert push_metrics("me", ["lsh_precision_recall"], dry_run=True)["me/lsh_precision_recall"]["url"] == ""
    with pytest.raises(ValueError, match="Did you mean"):
        push_metrics("me", ["lsh_precision_recal"])
    with pytest.raises(ValueError, match="name of a user"):
        push_metrics("me/too")
    with pytest.raises(ValueError, match="repository is 'example.org'; allowed are addresses"):
        push_metrics("me", repository="example.org")
    with pytest.raises(ValueError, match="Unknown folder or demo 'compres'. Did you mean 'compress'"):
        push_demo("compres", "me/demo")
    assert hub.requests == []


def test_a_folder_that_is_no_page_is_refused(tmp_path):
    (tmp_path / "app.py").write_text("print(1)")
    with pytest.raises(ValueError, match="no Gradio Space: it has no README.md"):
        push_demo(tmp_path, "me/demo")
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "README.md").write_text("# A page\n")
    with pytest.raises(ValueError, match="does not begin with a head"):
        push_demo(tmp_path, "me/demo", dry_run=True)
    (tmp_path / "requirements.txt").write_text("--index-url https://example.org\n")
    with pytest.raises(ValueError, match="no requirement that can be checked"):
        push_demo(tmp_path, "me/demo", dry_run=True)


def test_requirements_are_those_of_the_package(tmp_path):
    (tmp_path / "requirements.txt").write_text("# ours\nhf-ganzip[space] >= 0.1\n\npandas>=2\n")
    lines = _on_pypi(tmp_path / "requirements.txt")
    assert lines == [*requirements_of(["space"]), "pandas>=2"]
    names = [Requirement(line).name for line in lines]
    assert "gradio" in names and "torch" in names and "mkdocs" not in names and "hf_ganzip" not in names
    with pytest.raises(ValueError, match="no extra 'spaces'; it has browser"):
        requirements_of(["spaces"])


def test_an_installation_of_another_version_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_ganzip, "__version__", "99")
    with pytest.raises(RuntimeError, match="99 runs, but"):
        write_wheel(tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of an environment that has what the Spaces require, and nothing of ours."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "shared.pth").write_text(f"{Path(diffusers.__file__).parents[1]}\n")  # does not follow our own .pth there
    return folder / "bin" / "python"


def said_by(python, *arguments, **options):
    found = subprocess.run([python, *arguments], capture_output=True, text=True, **options)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return found.stdout


@pytest.mark.process
@pytest.mark.parametrize("space", ["lsh_precision_recall", "compress"])
def test_the_uploaded_files_and_pypi_are_enough(space, bare, hub, tmp_path):
    pytest.importorskip("gradio_client", reason="gradio is not installed")
    if space == "compress":
        found = push_demo(space, f"me/{space}", title="Smaller", repository=SOURCE)
    else:
        found = push_metrics("me", [space])[f"me/{space}"]
    folder = Path(snapshot_download(f"me/{space}", repo_type="space", local_dir=tmp_path / "space"))
    # What a visitor of the Space installs is the wheel itself.
    target = ["--no-deps", "--no-index", "--target", str(tmp_path / "installed")]
    address = found["install"].partition(" @ ")[2].rstrip('"')
    said_by(bare, "-m", "pip", "install", "--quiet", *target, address)
    assert (tmp_path / "installed" / "hf_ganzip" / "metrics_hub" / "lsh_precision_recall" / "README.md").is_file()
    requirements = folder / "requirements.txt"
    assert "ganzip" not in requirements.read_text()
    # Every line is there, in a version that it allows: without an index pip would fail otherwise.
    said = said_by(bare, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-r", requirements)
    assert said.count("Requirement already satisfied") >= len(requirements.read_text().splitlines())
    command = [bare, "-c", "import hf_ganzip.space"]
    alone = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={})
    assert "No module named 'hf_ganzip" in alone.stderr
    app_file = head_of((folder / "README.md").read_bytes())["app_file"]
    with served(folder / app_file, tmp_path, python=bare, ours=False) as page, OPENER.open(page, timeout=60) as answer:
        assert "precision and recall of" in (text := answer.read().decode()) or "Make a generator small" in text


@pytest.mark.process
def test_the_wheel_is_the_one_that_is_built(tmp_path):
    pytest.importorskip("build")
    ours = write_wheel(tmp_path)
    root = Path(hf_ganzip.__file__).parents[1]
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "built"), str(root)]
    said_by(sys.executable, *command)
    (built,) = (tmp_path / "built").glob("*.whl")
    assert built.name == ours.name
    contents = [
        {name: archive.read(name) for name in archive.namelist()} for archive in map(zipfile.ZipFile, (ours, built))
    ]
    assert contents[0].keys() == contents[1].keys()
    different = {name.rpartition("/")[2] for name in contents[0] if contents[0][name] != contents[1][name]}
    assert different <= {"RECORD", "WHEEL", "METADATA"}  # the last: an installation may be older than README.md
    assert write_wheel(tmp_path).read_bytes() == ours.read_bytes()
