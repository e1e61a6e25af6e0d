# SPDX-License-Identifier: Apache-2.0
"""One rule finds images, features and models; what is something else is refused."""

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hf_ganzip.evaluation.evaluate import evaluate
from hf_ganzip.evaluation.sources import load_reference, open_source, write_features

from ..conftest import tiny_generator


BUNDLED = "fashion-mnist-test-5000"
FEATURES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def parquet(path, **columns):
    pyarrow.parquet.write_table(pa.table(columns), path)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_features_from_every_kind_of_file(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES.numpy())
    save_file({"anything": FEATURES}, tmp_path / "x.safetensors")
    parquet(tmp_path / "x.parquet", features=FEATURES.tolist())
    write_features(tmp_path / "y.safetensors", FEATURES, {"extractor_digest": "abc", "count": 6})
    for name in ("x.npy", "x.safetensors", "x.parquet", "y.safetensors"):
        source = open_source(tmp_path / name)
        torch.testing.assert_close(source.features.float(), FEATURES)
        assert source.images is None and source.model is None
        assert source.extractor_digest == ("abc" if name[0] == "y" else None)


def test_images_from_every_kind_of_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels[:, None])
    save_file({"images": torch.from_numpy(pixels[:, None])}, tmp_path / "x.safetensors")
    parquet(tmp_path / "x.parquet", image=[png(image) for image in pixels])
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pixels):
        (tmp_path / "folder" / f"{i}.png").write_bytes(png(image))
    for name in ("x.npy", "x.safetensors", "x.parquet", "folder"):
        assert torch.equal(open_source(tmp_path / name).images[:, 0], torch.from_numpy(pixels))


def test_models_and_bundled_names(tmp_path):
    tiny_generator().save_pretrained(tmp_path)
    assert type(open_source(tmp_path).model).__name__ == "StyleGAN2Generator"
    assert open_source(f"model:{tmp_path}").model is not None
    assert open_source("stylegan2-fashion-mnist").model is not None
    assert open_source("fashion-mnist-test-5000").images.shape == (5000, 1, 28, 28)


def test_pickles_and_damaged_files_are_refused(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "torso.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "torso.safetensors").write_bytes(b"xx")
    (tmp_path / "torso.parquet").write_bytes(b"PAR1")
    save_file({"a": FEATURES, "b": FEATURES.clone()}, tmp_path / "two.safetensors")
    parquet(tmp_path / "ragged.parquet", features=[[1.0, 2.0], [3.0]])
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), " + b"(" * 40
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    messages = {
        "header.npy": "no .npy file of numbers",
        "object.npy": "no .npy file of numbers that can be read without running code",
        "torso.npy": "no .npy file",
        "torso.safetensors": "no readable safetensors file",
        "torso.parquet": "not a readable parquet file",
        "two.safetensors": "has the tensors a, b; allowed is one",
        "ragged.parquet": "does not hold vectors of one length",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / name)
    for missing in ("none.npy", "no/such/folder/x"):
        with pytest.raises(FileNotFoundError):
            open_source(tmp_path / missing)
    for wrong in (torch.zeros(3), np.zeros(3)):
        with pytest.raises(TypeError, match="allowed are features"):
            open_source(wrong)
    for wrong in (None, [1.0], 3):
        with pytest.raises(TypeError, match="is no source; allowed are a model, a tensor, an array and a name"):
            open_source(wrong)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="x.txt is a file of no known kind"):
        open_source(tmp_path / "x.txt")


def test_arrays_are_taken_as_tensors_are():
    array = FEATURES.numpy().copy()
    array.flags.writeable = False
    assert torch.equal(open_source(array).features, FEATURES)
    assert torch.equal(open_source(array[::-1]).features, FEATURES.flip(0))
    images = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    assert open_source(images).images.shape == (1, 3, 4, 4)
    metrics = {"metrics": ["knn_precision_recall"], "options": {"k": 1}}
    a, b = (evaluate(each, each, **metrics) for each in (array, FEATURES))
    assert a.metrics == b.metrics


def test_labels_and_size_of_images(tmp_path):
    for i, name in enumerate(("shirt", "shoe")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(np.full((6 + i, 6 + i), i, np.uint8)))
    source = open_source(tmp_path, resolution=8)
    assert source.images.shape == (2, 1, 8, 8) and source.labels.tolist() == [0, 1]
    assert open_source(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), resolution=8).images.shape == (2, 3, 8, 8)


def test_features_of_other_extractors_are_not_mixed(tmp_path):
    for name in ("a", "b"):
        write_features(tmp_path / f"{name}.safetensors", FEATURES, {"extractor_digest": name * 64})
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    with pytest.raises(ValueError, match="come from different extractors: aaaaaaaaaaaa, bbbbbbbbbbbb"):
        evaluate(*files)
    with pytest.raises(ValueError, match="holds features of another extractor"):
        evaluate("fashion-mnist-test-5000", files[0], options={"progress": False})


def test_features_need_no_extractor_and_options_reach_the_metrics():
    options = {"k": 2, "draws": 4}
    metrics = ["lsh_precision_recall", "knn_precision_recall"]
    report = evaluate(FEATURES, FEATURES, metrics=metrics, options=options, seed=3)
    lsh = report.metrics["lsh_precision_recall"]
    assert (lsh["k"], lsh["draws"], lsh["seed"]) == (2, 4, 3)
    taken = report.conditions["metric_options"]
    assert taken["knn_precision_recall"] == {"k": 2}
    assert options.items() | {("seed", 3)} <= taken["lsh_precision_recall"].items()
    assert report.conditions["extractor"] == "features as given"
    with pytest.raises(ValueError, match="none of the metrics frechet_distance has the option draws"):
        evaluate(FEATURES, FEATURES, metrics=["frechet_distance"], options={"draws": 4})


def test_a_model_is_no_reference():
    with pytest.raises(ValueError, match="is a model; allowed are images and features"):
        evaluate(FEATURES, "stylegan2-fashion-mnist")


def test_a_folder_without_classes_is_sorted_and_needs_a_resolution_for_several_sizes(tmp_path):
    for value in (30, 10, 20):
        Image.new("RGB", (6, 6), (value,) * 3).save(tmp_path / f"{value}.png")
    images, labels = load_reference(tmp_path)
    assert images.shape == (3, 3, 6, 6) and labels is None
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"images have 2 different sizes \(6x6, 8x8, ...\); set resolution"):
        load_reference(tmp_path)
    assert load_reference(tmp_path, resolution=8)[0].shape == (4, 3, 8, 8)


def test_ids_of_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"image": list(pixels), "label": [3, 1]}, features=features)

    def load_dataset(name, split):
        if name != "someone/images":
            raise ConnectionError(f"Couldn't reach {name!r}")
        if split != "test":
            raise ValueError(f"Unknown split {split!r}. Should be one of ['test'].")
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    images, labels = load_reference("someone/images")
    assert torch.equal(images[:, 0], torch.from_numpy(pixels)) and labels.tolist() == [3, 1]
    with pytest.raises(FileNotFoundError, match=f"neither here nor on the Hub, .* Did you mean '{BUNDLED}'"):
        load_reference("fashion-mnist-tst-5000")
    with pytest.raises(ValueError, match=r"someone/images, split 'train': Unknown split 'train'. .* \['test'\]"):
        load_reference("someone/images", split="train")


def test_bundled_images_load_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    assert len(load_reference(BUNDLED)[0]) == 5000
    with pytest.raises(ImportError, match=r'pip install "hf_ganzip\[metrics\]"'):
        load_reference("someone/images")
