# SPDX-License-Identifier: Apache-2.0
"""Uploads: what is read, and every hostile file that must become one line of refusal."""

import io
import json
import pickle
import stat
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hf_ganzip.space.uploads import LIMITS, read_upload


SMALL = replace(LIMITS, rows=50, dim=40, elements=1000, unpacked_bytes=20_000, image_pixels=400, pixels=4000)
FEATURES = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def refusal(path, limits=SMALL):
    """The message of the refusal; it must be one line that starts with the file's name and hold no path."""
    with pytest.raises(ValueError) as caught:
        read_upload(path, limits)
    message = str(caught.value)
    assert message.startswith(path.name) and "\n" not in message and str(path.parent) not in message
    assert len(message) < 250
    return message


def png(size=(8, 6), mode="RGB", colour=None):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "png")
    return buffer.getvalue()


def zipped(path, members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def declared(shape, descr="<f4"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def npy(path, header, data=b""):
    """A .npy file of version 1.0 with any header."""
    text = (header if isinstance(header, bytes) else repr(header).encode()).ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return path


def tensor(dtype, shape, end):
    """Header of a .safetensors file with one tensor."""
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).encode()


class TestAccepted:
    @pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "float16", "uint8", "int64"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_npy(self, tmp_path, dtype, order):
        features = np.asarray(10 * FEATURES, dtype, order=order) if dtype != "uint8" else np.eye(6, dtype="uint8")
        np.save(tmp_path / "a.npy", features)
        read = read_upload(tmp_path / "a.npy", SMALL)
        assert read.dtype == (np.float64 if dtype == "float64" else np.float32) and read.flags.c_contiguous
        assert np.array_equal(read, features.astype(read.dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_safetensors(self, tmp_path, dtype):
        tensor = torch.from_numpy(FEATURES).to(dtype)
        save_file({"features": tensor, "labels": torch.zeros(6)}, tmp_path / "a.safetensors", {"made": "by us"})
        assert np.array_equal(read_upload(tmp_path / "a.safetensors", SMALL), tensor.to(torch.float64).numpy())

    def test_parquet(self, tmp_path):
        tables = {
            "columns": pa.table({f"f{i}": FEATURES[:, i] for i in range(4)}),
            "lists": pa.table({"features": FEATURES.tolist()}),
            "fixed": pa.table({"features": pa.array(FEATURES.tolist(), pa.list_(pa.float32(), 4))}),
        }
        for name, table in tables.items():
            pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
            assert np.array_equal(read_upload(tmp_path / f"{name}.parquet", SMALL), FEATURES), name

    def test_zip(self, tmp_path):
        members = {"x/b.png": png(mode="L", colour=9), "x/a.PNG": png(colour="red")}
        members |= {"x/": b"", "__MACOSX/x": b"?", "x/.DS_Store": b"?"}
        images = read_upload(zipped(tmp_path / "a.zip", members), SMALL)
        assert [image.shape for image in images] == [(6, 8, 3), (6, 8, 1)] and images[1].max() == 9


class TestNpy:
    def test_pickled_objects_are_never_loaded(self, tmp_path):
        fired = tmp_path / "fired"

        class Bomb:
            def __reduce__(self):
                return open, (str(fired), "w")

        np.save(tmp_path / "objects.npy", np.array([[Bomb(), 1], [2, 3]], dtype=object), allow_pickle=True)
        (tmp_path / "plain.npy").write_bytes(pickle.dumps(Bomb()))
        np.savez(tmp_path / "a.npz", FEATURES)
        (tmp_path / "a.npz").rename(tmp_path / "archive.npy")
        assert "pickled Python objects, which are never loaded" in refusal(tmp_path / "objects.npy")
        assert "is no .npy file of numbers" in refusal(tmp_path / "plain.npy")
        assert "is no .npy file of numbers" in refusal(tmp_path / "archive.npy")
        assert not fired.exists()

    @pytest.mark.parametrize(
        "header, message",
        [
            (declared((2**40, 2**20)), "1,099,511,627,776 rows; allowed are at most 50"),
            (declared((2, 10**30)), "columns; allowed are at most 40"),
            (declared((50, 40)), "2,000 numbers; allowed are at most 1,000"),
            (declared((20, 4)), "its header asks for 448; it is damaged"),
            (declared((-5, 4)), "at least 2 rows"),
            (declared((24,)), "has 1 dimensions; allowed are 2"),
            (declared((2, 2), "<c8"), "dtype complex64; allowed are real numbers"),
            (declared((2, 2), "<U9"), "allowed are real numbers"),
            (declared((2, 2), [("a", "<f4")]), "allowed are real numbers"),
            (b"__import__('os').abort()", "is no .npy file of numbers"),
            (b"(" * 90, "is no .npy file of numbers"),
            (b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}" + b" " * 9000, "is no .npy file of numbers"),
        ],
    )
    def test_header_is_checked_before_anything_is_allocated(self, tmp_path, header, message):
        assert message in refusal(npy(tmp_path / "a.npy", header, b"\0" * 16))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_must_be_finite(self, tmp_path, bad):
        features = FEATURES.copy()
        features[2, 1] = bad
        np.save(tmp_path / "a.npy", features)
        assert "NaN or infinity in 1 of 6 rows" in refusal(tmp_path / "a.npy")


class TestSafetensors:
    @pytest.mark.parametrize(
        "header, length, message",
        [
            (b"{}", 2**62, "its header does not fit in it"),
            (b" " * (2**20 + 1), None, "1,048,577 bytes of header; allowed are at most 1,048,576"),
            (b"[" * 50_000, None, "its header names no tensor"),
            (b"{}", None, "its header names no tensor"),
            (b"\xff\xfe", None, "its header names no tensor"),
            (tensor("F32", ["x"], 4), None, "its header names no tensor"),
            (tensor("F32", [2**50, 2], 8), None, "rows; allowed are at most 50"),
            (tensor("F32", [4, 4], 64), None, "is a damaged safetensors file"),
            (tensor("F32", [4, 4], 8), None, "is a damaged safetensors file"),
            (tensor("I64", [4, 4], 128), None, "dtype I64; allowed are F16"),
            (tensor("F32", [4], 16), None, "has 1 dimensions; allowed are 2"),
            (b'{"a": {}, "b": {}}', None, "its header names no tensor"),
            (b'{"a": {"dtype": "F32", "shape": [3, 3]}, "b": {}}', None, "holds 2 tensors; allowed is one"),
        ],
    )
    def test_header(self, tmp_path, header, length, message):
        start = struct.pack("<Q", len(header) if length is None else length)
        (tmp_path / "a.safetensors").write_bytes(start + header + b"\0" * 8)
        assert message in refusal(tmp_path / "a.safetensors")


class TestParquet:
    def write(self, path, **columns):
        pq.write_table(pa.table(columns), path)
        return path

    def test_bombs_are_seen_in_the_footer(self, tmp_path):
        path = self.write(tmp_path / "rows.parquet", a=np.zeros(2_000_000))
        assert path.stat().st_size < 200_000 and "2,000,000 rows; allowed are at most 50" in refusal(path)
        path = self.write(tmp_path / "lists.parquet", a=[[0.0] * 300_000] * 3)
        assert "900,000 numbers; allowed are at most 1,000" in refusal(path)
        path = self.write(tmp_path / "bytes.parquet", a=["x" * 10**6, "y" * 10**6])
        assert "bytes when unpacked; allowed are at most 20,000" in refusal(path)
        path = self.write(tmp_path / "wide.parquet", **{f"c{i}": [0.0, 1.0] for i in range(41)})
        assert "41 columns; allowed are at most 40" in refusal(path)

    def test_other_contents(self, tmp_path):
        cases = {
            "has columns that are no numbers": {"a": ["x", "y"]},
            "has empty cells": {"a": [1.0, None]},
            "lists of different lengths": {"a": [[1.0, 2.0], [3.0]]},
            "has NaN or infinity in 1 of 2": {"a": [1.0, float("nan")]},
            "at least 2 rows": {"a": pa.array([], pa.float32())},
            "columns that are no numbers; allowed": {"a": [[[1.0]], [[2.0]]]},
        }
        for message, columns in cases.items():
            assert message in refusal(self.write(tmp_path / "a.parquet", **columns))
        assert "has empty cells" in refusal(self.write(tmp_path / "a.parquet", a=[[1.0], None]))
        assert "has empty cells" in refusal(self.write(tmp_path / "a.parquet", a=[[1.0], [None]]))

    def test_damage(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", a=np.arange(20.0))
        data = path.read_bytes()
        overwritten, noise = data[:30] + b"\xff" * 40 + data[70:], b"PAR1" + b"\xff" * 50 + b"PAR1"
        for broken in (b"", b"PAR1", data[:-5], data[:40], overwritten, noise):
            path.write_bytes(broken)
            assert "parquet file" in (message := refusal(path)) or "cannot be read" in message


class TestZip:
    def test_bomb_by_declared_size(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"a.png": b"\0" * 15_000, "b.png": b"\0" * 15_000})
        assert path.stat().st_size < 400 and "30,000 bytes when unpacked; allowed are at most 20,000" in refusal(path)
        one = replace(SMALL, member_bytes=9_000, unpacked_bytes=10**6)
        assert "15,000 bytes in member a.png; allowed are at most 9,000" in refusal(path, one)

    @pytest.mark.parametrize("claim", [10, 10**4])
    def test_bomb_that_lies_about_its_size(self, tmp_path, claim):
        """The member inflates to 100 MB and declares little; no more than that is ever unpacked."""
        path = zipped(tmp_path / "a.zip", {"a.png": bytes(10**8), "b.png": png()})
        sizes = struct.pack("<L", 10**8), struct.pack("<L", claim)
        path.write_bytes(path.read_bytes().replace(*sizes))
        tracemalloc.start()
        assert "is a damaged zip file" in refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5e6

    def test_too_many_members(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {f"{i}.png": b"" for i in range(51)})
        assert "51 members; allowed are at most 50" in refusal(path)
        assert "bytes of directory; allowed are at most 1,000" in refusal(path, replace(SMALL, directory_bytes=1000))
        data = bytearray(path.read_bytes())
        data[-14:-10] = struct.pack("<HH", 2, 2)  # the count lies
        path.write_bytes(data)
        assert "51 members; allowed are at most 50" in refusal(path)

    @pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
    def test_path_traversal(self, tmp_path, name):
        assert "points outside of the folder" in refusal(zipped(tmp_path / "a.zip", {name: png(), "b.png": png()}))
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]

    def test_links_encryption_and_odd_packing(self, tmp_path):
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        assert "is a link" in refusal(zipped(tmp_path / "a.zip", [(link, "/etc/passwd"), ("b.png", png())]))
        path = zipped(tmp_path / "b.zip", {"a.png": png(), "b.png": png()})
        data = bytearray(path.read_bytes())
        for position in (6, data.index(b"PK\1\2") + 8):
            data[position] |= 1
        path.write_bytes(data)
        assert "is encrypted" in refusal(path)
        odd = zipped(tmp_path / "c.zip", {"a.png": png(), "b.png": png()}, zipfile.ZIP_LZMA)
        assert "packed in an unusual way" in refusal(odd)

    def test_what_is_no_image(self, tmp_path):
        fine = {"b.png": png()}
        cases = {
            "member run.sh is no PNG or JPEG": {"run.sh": b"#!"},
            "member a.gif is no PNG or JPEG": {"a.gif": b"GIF89a"},
            "member a.png is no readable PNG": {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0"},
            "member a.jpg is no readable PNG": {"a.jpg": b"\xff\xd8\xff"},
            "member a.png is a damaged image": {"a.png": png()[:45]},
            "member a.png has mode RGBA": {"a.png": png(mode="RGBA")},
            "holds 1 images; at least 2": {},
        }
        for message, members in cases.items():
            assert message in refusal(zipped(tmp_path / "a.zip", members | fine))
        hostile = "<img src=x onerror=alert(1)>\n.sh"
        assert "<" not in refusal(zipped(tmp_path / "a.zip", {hostile: b""} | fine))

    def test_decompression_bombs_of_images(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"a.png": png((30, 30)), "b.png": png()})
        assert "900 pixels in member a.png; allowed are at most 400" in refusal(path)
        path = zipped(tmp_path / "b.zip", {f"{i}.png": png((20, 20)) for i in range(4)})
        assert "4,800 pixel values in all images; allowed are at most 4,000" in refusal(path)
        for side in (10_000, 60_000):  # Pillow warns of the first and refuses the second
            head = struct.pack(">2L5B", side, side, 8, 2, 0, 0, 0)
            data = png()[:16] + head + struct.pack(">L", zlib.crc32(b"IHDR" + head)) + png()[33:]
            path = zipped(tmp_path / "c.zip", {"a.png": data, "b.png": png()})
            assert "pixels" in refusal(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in a running app
                assert "pixels" in refusal(path)

    def test_damage(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"a.png": png(), "b.png": png()})
        data = path.read_bytes()
        overwritten = data[:10] + b"\xff" * 60 + data[70:]
        for broken in (b"", b"PK", data[:-1], data + b"x", b"x" * 30 + data[:-22], overwritten):
            path.write_bytes(broken)
            assert "zip file" in refusal(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = b"hello"
        assert "has a comment" in refusal(path)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
        path.write_bytes(data[:-22] + locator + data[-22:])
        assert "is a zip64 file" in refusal(path)


def test_size_and_name_of_the_file(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    assert "224 bytes; allowed are at most 100" in refusal(tmp_path / "a.npy", replace(SMALL, file_bytes=100))
    for name in ("a.pt", "a.pkl", "a.npz", "npy"):
        (tmp_path / name).write_bytes(b"")
        assert "the name must end in .npy, .safetensors, .parquet, .zip" in refusal(tmp_path / name)
    assert "cannot be read (FileNotFoundError)" in refusal(tmp_path / "gone.npy")
