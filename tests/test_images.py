# SPDX-License-Identifier: Apache-2.0
"""Reading labelled images from every kind of source."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hf_ganzip.images import fit_images, load_images, read_images, resize_image, stack_images, to_model_range, to_uint8
from hf_ganzip.images.files import read_idx

from .hub import LocalHub


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 5), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2], np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def png_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(params=["idx", "idx.gz", "parquet struct", "parquet bytes", "folder", "folder with splits"])
def source(request, tmp_path):
    """The same six images and labels in each form."""
    kind = request.param
    if kind.startswith("idx"):
        opened, suffix = (gzip.open, ".gz") if kind == "idx.gz" else (open, "")
        for name, array in (("images-idx3", PIXELS), ("labels-idx1", LABELS)):
            with opened(tmp_path / f"train-{name}-ubyte{suffix}", "wb") as file:
                file.write(idx_bytes(array))
        return tmp_path
    encoded = [png_bytes(pixels) for pixels in PIXELS]
    if kind.startswith("parquet"):
        cells = encoded if kind == "parquet bytes" else [{"bytes": data, "path": None} for data in encoded]
        pq.write_table(pa.table({"image": cells, "label": LABELS.astype(np.int64)}), tmp_path / "images.parquet")
        return tmp_path / "images.parquet"
    root = tmp_path / "train" if kind == "folder with splits" else tmp_path
    for i, (data, label) in enumerate(zip(encoded, LABELS)):
        path = root / f"class{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_every_source_gives_the_same_images(source):
    images, labels = load_images(str(source), resolution=8).tensors
    order = np.argsort(LABELS, kind="stable") if source.is_dir() and any(source.rglob("*.png")) else np.arange(6)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert labels.tolist() == LABELS[order].tolist()
    assert np.array_equal(images.numpy(), fit_images(PIXELS[order][..., None], 8).transpose(0, 3, 1, 2))


def test_smaller_images_are_centred_and_larger_ones_resized():
    image = np.full((8, 6, 3), 200, np.uint8)
    resized = resize_image(image, 4)
    assert resized.shape == (4, 4, 3) and (resized == 200).all()
    centred = resize_image(np.full((4, 4, 1), 200, np.uint8), 6)
    assert centred[1:5, 1:5].min() == 200 and centred.sum() == 16 * 200
    with pytest.raises(ValueError, match="images are 8x6; allowed are square images of at most 7 pixels"):
        resize_image(image, 7)


def test_grey_images_among_colour_ones_get_three_channels():
    stacked = stack_images([np.full((2, 2, 1), 9, np.uint8), np.zeros((2, 2, 3), np.uint8)])
    assert stacked.shape == (2, 3, 2, 2) and (stacked[0] == 9).all()


def test_labels_may_be_missing_and_must_match_images(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(PIXELS))
    assert read_images(tmp_path)[1] is None
    assert load_images(tmp_path, resolution=5).tensors[1].tolist() == [0] * 6
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:4]))
    with pytest.raises(ValueError, match="6 images in train-images-idx3-ubyte but 4 labels"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("empty", b"", "is not an idx file"),
        ("nonsense", b"PNG nonsense", "is not an idx file"),
        ("header", b"\0\0\x08\x03\0\0", "is not an idx file"),
        ("torso", idx_bytes(PIXELS)[:-1], "has 165 bytes; its header asks for 166"),
        ("torso.gz", gzip.compress(idx_bytes(PIXELS))[:-20], "is a damaged gzip file .*; download it again"),
        ("nonsense.gz", b"no gzip", "is a damaged gzip file .*; download it again"),
    ],
)
def test_damaged_idx_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK"])
def test_lossy_modes_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    with pytest.raises(ValueError, match=f"has mode {mode[0]}.*; allowed are 8-bit grey and RGB"):
        read_images(tmp_path)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3)])
def test_lossless_modes_are_read(tmp_path, mode, channels):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    assert read_images(tmp_path)[0][0].shape == (4, 4, channels)


def test_the_only_column_of_images_is_found_in_parquet_files_that_have_one(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(FileNotFoundError, match="no parquet file"):
        read_images(path)
    path.write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match="is not a readable parquet file"):
        read_images(path)
    pq.write_table(pa.table({"picture": [png_bytes(PIXELS[0])]}), path)
    with pytest.raises(ValueError, match="has no column 'image'; it has picture. Set image_column"):
        read_images(path, image_column="image")
    with pytest.raises(ValueError, match="columns that hold images: none; it has picture. Set image_column"):
        read_images(path)
    assert read_images(path, image_column="picture")[1] is None
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "elsewhere.png"}]}), path)
    with pytest.raises(ValueError, match="row 0: column 'image' holds no encoded image"):
        read_images(path)
    cell = {"bytes": png_bytes(PIXELS[0]), "path": None}
    pq.write_table(pa.table({"img": [cell], "label": [3]}), path)  # the names of CIFAR-10
    images, labels = read_images(path)
    assert len(images) == 1 and labels.tolist() == [3]
    pq.write_table(pa.table({"left": [cell], "right": [cell]}), path)
    with pytest.raises(ValueError, match="hold images: left, right; it has left, right. Set image_column"):
        read_images(path)
    pq.write_table(pa.table({"image": [cell], "mask": [cell]}), path)
    assert len(read_images(path)[0]) == 1


@pytest.mark.process
def test_datasets_of_the_hub(tmp_path):
    """With a column of images by either name."""
    cells, labels = [{"bytes": png_bytes(pixels), "path": None} for pixels in PIXELS], list(range(len(PIXELS)))
    for column in ("image", "img"):
        (tmp_path / column / "data").mkdir(parents=True)
        for split in ("train", "test"):
            file = tmp_path / column / "data" / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.table({column: cells, "label": labels}), file)
    code = (
        "from hf_ganzip.images import read_images\n"
        "for column in ('image', 'img'):\n"
        "    images, labels = read_images(f'org/{column}', split='test')\n"
        "    print(column, sum(int(i.sum()) for i in images), labels.tolist())"
    )
    with LocalHub({f"datasets/org/{column}": tmp_path / column for column in ("image", "img")}) as hub:
        found = hub.run(code, tmp_path / "cache")
    total = np.sum(PIXELS, dtype=np.int64)
    assert found.splitlines() == [f"{column} {total} {labels}" for column in ("image", "img")]


def test_sources_without_images(tmp_path):
    with pytest.raises(ValueError, match=r"has no images; images in a folder end in \.png, \.jpg, \.jpeg"):
        read_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no file or folder"):
        read_images(tmp_path / "missing")


def test_range_conversions_invert_each_other():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_model_range(values)), values)
    assert to_model_range(values).min() == -1 and to_model_range(values).max() == 1
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
