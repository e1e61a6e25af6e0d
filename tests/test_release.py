# SPDX-License-Identifier: Apache-2.0
"""What people install: wheel and sdist, built and tried in an empty environment."""

import email
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import hf_ganzip
from hf_ganzip.assets import ASSETS


ROOT = Path(__file__).parents[1]
WHEEL_MIB = 18  # nearly all of it bundled models and images


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and an sdist of the source tree: what `make release` built, or built here."""
    if "HF_GANZIP_DIST" in os.environ:
        return ROOT / os.environ["HF_GANZIP_DIST"]
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return folder


@pytest.mark.process
def test_the_wheel_has_what_it_needs_and_no_more(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ASSETS.values():
        assert any(name.startswith(f"hf_ganzip/assets/{folder}") for name in names), folder
    assert "hf_ganzip/metrics_hub/lsh_precision_recall/lsh_precision_recall.py" in names
    for name in ("train_stylegan2.py", "extract_features.py", "recipes/diff-prune-ddpm.yaml", "space_compress/app.py"):
        assert f"hf_ganzip/examples/{name}" in names
    assert not any("__pycache__" in name for name in names)
    assert "hf_ganzip/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"hf_ganzip"}
    assert wheel.stat().st_size < WHEEL_MIB * 2**20


@pytest.mark.process
def test_the_sdist_can_be_tested(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "tests/test_release.py"} <= names
    assert {"hf_ganzip/__init__.py", "metrics_hub/lsh_precision_recall/README.md"} <= names
    assert not any(name.startswith(".venv") for name in names)


@pytest.mark.process
def test_installed_into_an_empty_environment(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    install = [bin_folder / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    code = "import hf_ganzip; print(hf_ganzip.__file__)"
    packages = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": packages}
    found = subprocess.run([bin_folder / "python", "-I", "-c", code], check=True, **options)
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
    # Dependencies come from this environment: PYTHONPATH brings its packages, but not its editable installation.
    packages["PYTHONPATH"] = str(Path(yaml.__file__).parents[1])
    for arguments, expected in (
        (["info", "biggan-fashion-mnist"], "BigGANGenerator in"),
        (["metrics", "list"], "lsh_precision_recall"),
        (["compress", "biggan-fashion-mnist", tmp_path / "small", "--recipe", "small-and-quantized"], "saved to"),
        (["train", "biggan", "--smoke", "--output_dir", tmp_path / "run"], "2 classes"),
        (["examples", tmp_path / "copied"], "svs-stylegan2"),
    ):
        found = subprocess.run([bin_folder / "hf-ganzip", *arguments], **options)
        assert found.returncode == 0 and expected in found.stdout, found.stderr
        assert str(tmp_path) in found.stdout or arguments[0] == "train"
    assert (tmp_path / "run" / "generator" / "config.json").is_file()


_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.process
def test_links_of_the_description_hold_outside_the_repository(built, hook):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
        found = email.message_from_bytes(archive.read(name))
    text, repository = found.get_payload(decode=True).decode(), os.environ.get(hook.REPOSITORY)
    assert text.startswith("# hf_ganzip") and found["Description-Content-Type"] == "text/markdown"
    assert found["Project-URL"] == (repository and f"Repository, {repository}")
    assert [link for link in _LINK.findall(text) if not link.startswith("https://")] == []
    assert text.strip() == hook.description((ROOT / "README.md").read_text(), repository, found["Version"]).strip()


def test_links_of_the_description_lead_to_the_version(hook):
    text = "![A](docs/a.png) [b `c`](b.md#d) [e](https://e.org) [f](#g) [h](mailto:i@j)"
    kept = "[e](https://e.org) [f](#g) [h](mailto:i@j)"
    assert hook.description(text, None, "1.0") == f" b `c` {kept}"
    linked = hook.description(text, "https://k", "1.0")
    assert linked == f"![A](https://k/raw/v1.0/docs/a.png) [b `c`](https://k/blob/v1.0/b.md#d) {kept}"
    readme = (ROOT / "README.md").read_text()
    links = _LINK.findall(hook.description(readme, "https://k", "1.0"))
    assert len(links) == len(_LINK.findall(readme)) and not [link for link in links if not link.startswith("https://")]
    places = [match[1] for link in links if (match := re.match(r"https://k/(?:raw|blob)/v1.0/([^#]+)", link))]
    assert places and all((ROOT / place).is_file() for place in places)


def test_release_files_agree():
    version = hf_ganzip.__version__
    assert importlib.metadata.version("hf_ganzip") == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version and citation["license"] == "Apache-2.0" and citation["references"]
    released = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == (version, str(citation["date-released"]))
    assert (ROOT / "SECURITY.md").is_file()


def test_only_the_job_that_publishes_can_and_it_waits_for_the_others():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}} and workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert {name for name, job in jobs.items() if "permissions" in job} == {"publish"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["environment"] == "pypi"
    assert set(jobs["publish"]["needs"]) == jobs.keys() - {"publish"}
    run = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in run if line.startswith("make")} == {"release", "test-versions"} <= targets
    address = "${{ github.server_url }}/${{ github.repository }}"
    assert [step["env"] for step in jobs["build"]["steps"] if "env" in step] == [{"HF_GANZIP_REPOSITORY": address}]
    assert any("Not on PyPI yet" in line for line in run)  # which the published README must not say
    (check,) = (line for line in run if "GITHUB_REF_NAME" in line)
    for tag, status in ((f"v{hf_ganzip.__version__}", 0), ("v0.0.1", 1)):
        tried = subprocess.run(["bash", "-c", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag})
        assert tried.returncode == status


def test_the_readme_says_where_the_package_stands():
    said = " ".join((ROOT / "README.md").read_text().split())
    assert "```bash pip install hf_ganzip ```" in said and "Not on PyPI yet" in said
