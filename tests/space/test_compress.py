# SPDX-License-Identifier: Apache-2.0
"""What the compression Space shows and refuses, without a browser."""

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

import hf_ganzip as gz
from hf_ganzip.assets import asset_path
from hf_ganzip.evaluation.sampling import sample_images

from ..conftest import tiny_discriminator, tiny_generator
from ..hub import LocalHub


FOLDER = Path(__file__).parents[2] / "examples" / "space_compress"


@pytest.fixture(scope="module")
def space():
    """The Space's module, by its file."""
    spec = importlib.util.spec_from_file_location("space_compress_comparison", FOLDER / "comparison.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(monkeypatch, tmp_path, space):
    """A Hub with a small generator, an oversized one and repositories without a generator."""
    tiny_generator().save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "evil.pkl").write_bytes(b"not to be fetched")
    (tmp_path / "small" / "deep").mkdir()
    (tmp_path / "small" / "deep" / "other.safetensors").write_bytes(b"not to be fetched either")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    for name, changed in (
        ("huge", config | {"channels": [60_000, 60_000, 8]}),
        ("mismatch", config | {"channels": [16, 16, 16]}),
        ("class", {"_class_name": "os.system"}),
        ("garbage", config),
    ):
        shutil.copytree(tmp_path / "small", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(changed))
    next((tmp_path / "garbage").glob("*.safetensors")).write_bytes(b"\0" * 100)
    tiny_discriminator().save_pretrained(tmp_path / "discriminator")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    packed = gz.load_model(tmp_path / "small")
    gz.quantize_(packed, gz.QuantizeConfig(method="linear", bits=4))
    packed.save_pretrained(tmp_path / "packed")
    with LocalHub({f"org/{folder.name}": folder for folder in tmp_path.iterdir()}) as found:
        found.use(monkeypatch)
        space._open.cache_clear()
        yield found


def cells(html):
    found = re.findall(r'data-metric="(\w+)" data-side="(\w+)">([^<]+)<', html)
    return {(name, side): text for name, side, text in found}


def test_figures_and_pictures_of_a_bundled_generator(space):
    heard = []
    request = space.Request("stylegan2-fashion-mnist", "linear", 4, 100, seed=3)
    found = space.run(request, report=lambda share, what: heard.append(share))
    assert heard == sorted(heard) and heard[0] == 0
    model = gz.load_model(asset_path("stylegan2-fashion-mnist"))
    assert torch.equal(found.full.images, sample_images(model, 100, seed=3, progress=False)[0])
    report = gz.quantize_(model, gz.QuantizeConfig(method="linear", bits=4))
    assert torch.equal(found.compressed.images, sample_images(model, 100, seed=3, progress=False)[0])
    shown = cells(space.table(found))
    assert shown["bytes", "compressed"] == f"{report.bytes_after / 1024:,.0f} KiB"
    assert shown["knn_recall", "full"] == f"{found.full.metrics['knn_recall']:.3f}"
    assert len(shown) == 14 and found.bits_per_weight == report.bits_per_weight
    before, after = found.pictures()
    assert before.size == after.size and before.tobytes() != after.tobytes()
    assert "With so few images" in space.table(found), "100 images are few"
    full = space.run(request).full
    assert torch.equal(full.images, found.full.images), "the cached generator was not changed"


def test_the_shown_code_repeats_the_compression(space, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    request = space.Request("stylegan2-fashion-mnist", "mse_clip", 3, 64, keep_last_block=False)
    found = space.run(request)
    exec(compile(space.snippet(request), "snippet", "exec"), {})
    restored = gz.load_model(tmp_path / "small")
    assert torch.equal(sample_images(restored, 64, progress=False)[0], found.compressed.images)
    assert 'method="mse_clip", bits=3, preset="paper", skip_last_block=False' in space.snippet(request)


def test_generator_of_the_hub(space, hub):
    found = space.run(space.Request("org/small", bits=8, num_images=64))
    assert found.reference == "other images of the full generator"
    assert found.full.images.shape[0] == 64 and "pixels at 32 x 32" in space.table(found)
    fetched = [each for each in hub.requests if "/resolve/" in each]
    assert fetched and not any("evil.pkl" in each or "deep" in each for each in fetched)


def test_only_public_repositories_are_opened(space, hub):
    """Though the owner of the Space is logged in and could."""
    hub.repositories["org/secret"] = replace(hub.repositories["org/small"], private=True)
    assert HfApi().model_info("org/secret").private
    with pytest.raises(ValueError, match="org/secret is not on the Hub, or not public"):
        space.run(space.Request("org/secret"))


@pytest.mark.parametrize(
    "name, limits, message",
    [
        ("none", {}, "org/none is not on the Hub, or not public"),
        ("empty", {}, "org/empty has no config.json with safetensors beside it"),
        ("huge", {}, r"org/huge has [\d,]+ parameters; here at most 100,000,000 are opened"),
        ("discriminator", {}, "StyleGAN2Discriminator"),
        ("class", {}, "names the class 'os.system'"),
        ("packed", {}, "already quantized"),
        ("garbage", {}, "org/garbage cannot be opened: "),
        ("mismatch", {}, "org/mismatch cannot be opened: "),
        ("small", {"download_bytes": 1000}, "MiB of weights; here at most 0 are opened"),
        ("small", {"side": 4}, "makes images of 16 pixels; here at most 4 are drawn"),
        ("small", {"parameters": 10}, "parameters; here at most 10 are opened"),
    ],
)
def test_what_the_hub_may_hold(space, hub, name, limits, message):
    with pytest.raises(ValueError, match=message) as caught:
        space.run(space.Request(f"org/{name}", num_images=64), replace(space.LIMITS, **limits))
    assert "\n" not in str(caught.value) and hub.cache.name not in str(caught.value)


def test_a_hub_that_is_down(space, hub):
    hub.faults = {"GET /api/models/org/small": [500] * 20}
    with pytest.raises(ValueError, match="org/small cannot be downloaded now"):
        space.run(space.Request("org/small"))


@pytest.mark.parametrize("fault", ["refused", "timeout"])
def test_no_connection_to_the_hub(space, monkeypatch, fault):
    """What huggingface_hub lets through is an error of its HTTP library, which need not be an OSError."""
    library = sys.modules[HfHubHTTPError.__bases__[0].__module__.split(".")[0]]

    def fail(*args, **kwargs):
        raise {"refused": library.ConnectError, "timeout": library.ReadTimeout}[fault]("no answer")

    space._open.cache_clear()
    monkeypatch.setattr(HfApi, "model_info", fail)
    with pytest.raises(ValueError, match="org/small cannot be downloaded now .*; try again later"):
        space.run(space.Request("org/small"))


@pytest.mark.parametrize(
    "model",
    ["", "/etc", "../../etc", "org", "a/b/c", "~/x", "org/..", "C:\\x", "org/a b", "org/" + "x" * 200, None, "."],
)
def test_nothing_but_ids_of_the_hub(space, model):
    with pytest.raises(ValueError, match="is no model id of the Hub; write owner/name"):
        space.Request(model)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bits": 1}, "bits is 1; allowed are whole numbers from 2 to 8"),
        ({"bits": 2.5}, "bits is 2.5"),
        ({"bits": None}, "bits is None"),
        ({"num_images": 10**9}, "num_images is 1000000000; allowed are whole numbers from 64 to 1000"),
        ({"seed": float("nan")}, "seed is nan"),
        ({"method": "gptq"}, "Unknown method 'gptq'"),
    ],
)
def test_settings_are_checked_again(space, changes, message):
    with pytest.raises(ValueError, match=message):
        space.Request("stylegan2-fashion-mnist", **changes)


def test_the_card_of_the_space_names_the_tested_gradio():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    pinned = re.search(r"^gradio==([\d.]+)", (FOLDER.parents[1] / "constraints.txt").read_text(), re.MULTILINE)
    assert yaml.safe_load(card.split("---")[1])["sdk_version"] == pinned[1]
