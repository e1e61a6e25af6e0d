# SPDX-License-Identifier: Apache-2.0
"""Images of many sizes: read one at a time, each upright and in 8 bits, features in their order and independent of
batches.
"""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hf_ganzip.evaluation import extract_features, streams
from hf_ganzip.evaluation.cache import FeatureCache
from hf_ganzip.evaluation.evaluate import evaluate
from hf_ganzip.evaluation.sources import open_source
from hf_ganzip.evaluation.streams import batches


TURNED = Image.Exif()
TURNED[274] = 6


class Resizing:
    """Features of images of any size: the pixels of a small copy."""

    name, dim, digest, resize = "resizing", 27, "0" * 64, "antialiased bilinear to 3x3"

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(tuple(images.shape))
        assert len(images) * images[0].numel() <= streams._BATCH_BYTES or len(images) == 1
        small = F.interpolate(images.float(), (3, 3), mode="bilinear", antialias=True)
        return small.expand(-1, 3, -1, -1).flatten(1)


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photographs(tmp_path):
    """Ten photographs of five sizes in nested folders."""
    folder = tmp_path / "photographs"
    for i in range(10):
        file = folder / ("first" if i < 3 else "second/deep") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(10 + 3 * (i % 5), 20 - i % 5, seed=i).save(file)
    return folder


def stream_of(source):
    return open_source(source, streamed=True).stream


@pytest.mark.parametrize("batch_size", [1, 3, 10, 100])
def test_features_are_in_order_and_do_not_depend_on_batches(photographs, batch_size):
    extractor = Resizing()
    features = extract_features(stream_of(photographs), extractor, batch_size=batch_size, progress=False)
    files = sorted(photographs.rglob("*.png"))
    alone = [extractor(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]) for file in files]
    torch.testing.assert_close(features, torch.cat(alone))
    assert features.shape == (10, 27) and max(shape[0] for shape in extractor.shapes) <= max(1, batch_size // 5 + 1)


def test_memory_is_bounded_by_pixels(photographs, monkeypatch):
    expected = extract_features(stream_of(photographs), Resizing(), progress=False)
    monkeypatch.setattr(streams, "_BATCH_BYTES", 3 * 10 * 20)
    bounded = Resizing()
    torch.testing.assert_close(extract_features(stream_of(photographs), bounded, progress=False), expected)
    assert {shape[0] for shape in bounded.shapes} == {1}
    images = torch.zeros(7, 3, 10, 10, dtype=torch.uint8)
    assert [len(batch) for _, batch in batches(images, 5)] == [2, 2, 1, 2]


def test_parts_and_sizes_of_a_stream(photographs):
    stream = stream_of(photographs)
    parts = [extract_features(part, Resizing(), progress=False) for part in stream.split(4)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), extract_features(stream, Resizing(), batch_size=4, progress=False))
    assert [batch.shape for _, batch in batches(stream.at(6), 100)] == [(10, 3, 6, 6)]


def test_the_cache_knows_files_sizes_and_extractors(photographs, tmp_path):
    cache, extractor = FeatureCache(tmp_path / "cache"), Resizing()
    stream = stream_of(photographs)
    first = extract_features(stream, extractor, cache=cache, progress=False)
    calls = len(extractor.shapes)
    assert torch.equal(extract_features(stream_of(photographs), extractor, cache=cache, progress=False), first)
    assert len(extractor.shapes) == calls
    keys = {cache.key(each, extractor) for each in (stream, stream[:5], stream.at(8))}
    picture(4, 4).save(photographs / "first" / "0.png")
    assert len(keys | {cache.key(stream_of(photographs), extractor)}) == 4


def test_every_kind_of_photograph(tmp_path):
    picture(6, 4).convert("L").save(tmp_path / "grey.jpg")
    picture(6, 4).convert("P").save(tmp_path / "palette.png")
    see_through = picture(6, 4).convert("RGBA")
    see_through.putalpha(7)
    see_through.save(tmp_path / "alpha.png")
    see_through.convert("P").save(tmp_path / "palette_alpha.png", transparency=bytes(range(256)))
    see_through.convert("LA").save(tmp_path / "grey_alpha.png")
    picture(6, 4).save(tmp_path / "web.webp", lossless=True)
    picture(6, 4).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(np.full((4, 6), 0x12FF, np.uint16)).save(tmp_path / "deep.png")
    for kind in ("jpg", "tiff", "png"):
        picture(6, 4).save(tmp_path / f"turned.{kind}", exif=TURNED)
    (tmp_path / ".hidden.jpg").write_bytes(b"no image")
    stream = stream_of(tmp_path)
    found = {stream.stored.names[i].rpartition("/")[2]: stream.pixels(i) for i in range(len(stream))}
    for name, pixels in found.items():
        assert pixels.shape == ((6, 4, 3) if name.startswith("turned") else (4, 6, 3)), name
    assert [stream.shape(i) for i in range(len(stream))] == [pixels.shape[:2] for pixels in found.values()]
    assert len(found) == 11 and (found["deep.png"] == 0x12).all() and (found["grey.jpg"].std(axis=2) == 0).all()
    original = np.asarray(picture(6, 4))
    for name, expected in {"web.webp": original, "alpha.png": original, "turned.png": np.rot90(original, -1)}.items():
        assert np.array_equal(found[name], expected), name
    lost = {"16 bits reduced to 8": 1, "CMYK converted to RGB": 1, "transparency dropped": 3}
    assert stream.conversions == lost | {"turned by EXIF": 3}


def test_an_orientation_behind_the_pixels_of_a_png_is_seen(tmp_path):
    data, turned = encoded(picture(6, 4)), encoded(picture(6, 4), exif=TURNED)
    chunk = turned[turned.index(b"eXIf") - 4 :][: 12 + int.from_bytes(turned[turned.index(b"eXIf") - 4 :][:4], "big")]
    end = data.index(b"IEND") - 4
    (tmp_path / "0.png").write_bytes(data)
    (tmp_path / "1.png").write_bytes(data[:end] + chunk + data[end:])
    stream = stream_of(tmp_path)
    assert [tuple(batch.shape) for _, batch in batches(stream, 9)] == [(1, 3, 4, 6), (1, 3, 6, 4)]
    assert extract_features(stream, Resizing(), progress=False).shape == (2, 27)


def test_damaged_exif_data_do_not_matter(tmp_path):
    data = encoded(picture(6, 4), "JPEG", exif=TURNED)
    assert data.count(b"MM\x00*") == 1
    (tmp_path / "0.jpg").write_bytes(data.replace(b"MM\x00*", b"MM\x00Y"))
    assert [tuple(batch.shape) for _, batch in batches(stream_of(tmp_path), 9)] == [(1, 3, 4, 6)]


def test_grey_images_stay_grey(tmp_path):
    for i, side in enumerate((5, 6)):
        picture(side, side).convert("L").save(tmp_path / f"{i}.png")
    assert [batch.shape for _, batch in batches(stream_of(tmp_path), 9)] == [(1, 1, 5, 5), (1, 1, 6, 6)]


def test_all_images_that_cannot_be_read_are_named(photographs):
    whole = encoded(picture(30, 30))
    for name in ("torso", "cut"):
        (photographs / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    stream = stream_of(photographs)  # their heads are in order
    with pytest.raises(ValueError, match=r"2 images: .*cut\.png is not a readable image.*torso\.png is not"):
        extract_features(stream, Resizing(), batch_size=2, progress=False)
    for name in ("empty", "text"):
        (photographs / f"{name}.jpg").write_bytes(name.encode() * (name == "text"))
    (photographs / "lost.jpg").symlink_to(photographs / "nowhere.jpg")
    unreadable = r"empty\.jpg is .* no format that Pillow knows.*lost\.jpg cannot be read: No such.*text\.jpg is"
    with pytest.raises(ValueError, match=f"3 images: .*{unreadable}"):
        stream_of(photographs)


def test_parquet_files_of_many_sizes_are_as_folders(photographs, tmp_path):
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted(photographs.rglob("*.png"))]
    pyarrow.parquet.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    sources = photographs, tmp_path / "x.parquet"
    a, b = (extract_features(stream_of(each), Resizing(), progress=False) for each in sources)
    assert torch.equal(a, b)
    np.save(tmp_path / "features.npy", a.numpy())
    options = {"metrics": "knn", "extractor": Resizing(), "options": {"progress": False}}
    report = evaluate(photographs, tmp_path / "features.npy", **options)
    assert report.metrics["knn_precision_recall"] == {"precision": 1.0, "recall": 1.0}


def test_an_extractor_that_does_not_resize_is_told_apart(photographs):
    def flat(images):
        return images.flatten(1)

    with pytest.raises(ValueError, match=r"features of images of size .* of others; set resolution"):
        extract_features(stream_of(photographs), flat, progress=False)
    options = {"progress": False, "resolution": 4}
    report = evaluate(photographs, photographs, metrics="prdc", extractor=flat, options=options)
    assert report.conditions["resolution"] == 4
    assert list(report.metrics) == ["knn_precision_recall", "density_coverage"]
    with pytest.raises(ValueError, match="resolution is for images; tensor holds features"):
        evaluate(photographs, torch.zeros(9, 48), extractor=Resizing(), options=options)
