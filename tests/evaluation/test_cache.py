# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from hf_ganzip.evaluation import extract_features
from hf_ganzip.evaluation.cache import FeatureCache, default_cache_folder


class Counting:
    """An extractor that counts its calls."""

    name, digest, resize = "counting", "0" * 64, "none"

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return images.flatten(1).float()


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8)


@pytest.mark.parametrize("change", ["pixel", "shape", "digest", "resize", "name"])
def test_whatever_moves_the_features_moves_the_key(tmp_path, images, change):
    cache, extractor = FeatureCache(tmp_path), Counting()
    key = cache.key(images, extractor)
    if change == "pixel":
        images = images.clone()
        images[3, 0, 1, 1] ^= 1
    elif change == "shape":
        images = images.view(7, 1, 2, 8)
    else:
        setattr(extractor, change, "other")
    assert cache.key(images, extractor) != key


def test_a_callable_without_a_digest_is_not_cached(tmp_path, images):
    extract_features(images, lambda batch: batch.flatten(1), cache=FeatureCache(tmp_path), progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"torso", None])
def test_a_damaged_file_is_made_again(tmp_path, images, damage):
    cache, extractor = FeatureCache(tmp_path), Counting()
    expected = extract_features(images, extractor, cache=cache, progress=False)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3] if damage is None else damage)
    for _ in range(2):  # equal images are extracted once
        assert torch.equal(extract_features(images.clone(), extractor, cache=cache, progress=False), expected)
        assert extractor.calls == 2


def write_often(folder):
    for _ in range(30):
        FeatureCache(folder).write("key", torch.ones(500, 40))


@pytest.mark.process
def test_readers_see_whole_files_under_concurrent_writers(tmp_path):
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write_often, args=(str(tmp_path),)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        found = FeatureCache(tmp_path).read("key")
        if found is None:
            time.sleep(0.01)  # they are starting
        else:
            seen += 1
            assert found.shape == (500, 40) and bool((found == 1).all())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen and [path.name for path in tmp_path.iterdir()] == ["key.safetensors"]


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_GANZIP_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path
    monkeypatch.delenv("HF_GANZIP_CACHE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    assert default_cache_folder() == Path(tmp_path, "home", "hf_ganzip", "features")
