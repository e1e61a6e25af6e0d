# SPDX-License-Identifier: Apache-2.0
"""Write hostile and damaged checkpoints into a folder; each would act, or exhaust memory, in a careless reader.

Those that would act create the file CANARY in that folder.
"""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import torch

from ..models.golden import GOLDEN
from .pickles import arrays, executors, frameless, invoke, memory_bombs, networks, program, text


def saved(data):
    """A torch file in zip form."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def rebuilt(size, stride, offset=0, numbers=4, count=None):
    """A torch file in legacy form whose only tensor has these dimensions over ``numbers`` floats."""
    count = numbers if count is None else count
    name = text("torch") + text("FloatStorage") + b"\x93"
    identifier = b"(" + text("storage") + name + text("0") + text("cpu") + frameless(count) + b"NtQ"
    body = text("torch._utils") + text("_rebuild_tensor_v2") + b"\x93(" + identifier
    body += frameless(offset) + frameless(tuple(size)) + frameless(tuple(stride)) + b"\x89}tR"
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    file = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(facts, 2)
    file += program(b"}", text("a"), body, b"s") + pickle.dumps(["0"], 2)
    return file + struct.pack("<q", count) + b"\0" * (4 * numbers)


def tensors():
    """Torch files whose tensors are larger than their data, by name."""
    whole = rebuilt((2, 2), (2, 1))
    return {
        "shape_huge.pt": rebuilt((1 << 40,), (1,)),
        "shape_product_overflows.pt": rebuilt((1 << 33, 1 << 33), (1, 1)),
        "stride_zero_expands.pt": rebuilt((1 << 40,), (0,)),
        "stride_negative.pt": rebuilt((2,), (-1,)),
        "size_negative.pt": rebuilt((-2,), (1,)),
        "size_is_text.pt": rebuilt(("2",), (1,)),
        "offset_beyond.pt": rebuilt((2,), (1,), offset=3),
        "offset_negative.pt": rebuilt((2,), (1,), offset=-1),
        "storage_declares_terabytes.pt": rebuilt((2,), (1,), count=1 << 40),
        "storage_declares_negative.pt": rebuilt((2,), (1,), count=-4),
        "truncated_storage.pt": whole[:-3],
        "truncated_object.pt": whole[:120],
        "wrong_magic.pt": pickle.dumps(0x1950A86A20F9469CFC6D, 2) + whole[15:],
        "wrong_protocol.pt": whole.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)),
        "big_endian.pt": whole.replace(text("little_endian") + b"q\x02\x88", text("little_endian") + b"q\x02\x89"),
        "other_keys.pt": whole.replace(pickle.dumps(["0"], 2), pickle.dumps(["1"], 2)),
    }


def archives(canary):
    """Zip files, by name."""

    def archive(members, compression=zipfile.ZIP_STORED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as file:
            for name, data in members:
                file.writestr(name, data)
        return buffer.getvalue()

    good = saved({"a": torch.arange(64.0)})
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    root = members[0][0].split("/")[0]
    short = [(name, data[:-4] if name.endswith("data/0") else data) for name, data in members]
    hostile = [
        (name, invoke("os", "system", f"touch {canary}") if name.endswith("data.pkl") else data)
        for name, data in members
    ]
    big = [(name, b"big" if name.endswith("byteorder") else data) for name, data in members]
    overlapping = archive([("a/data.pkl", b"\x80\x02N."), ("a/data/0", b"x" * 50)])
    return {
        "zip_bomb.pt": archive([("a/data.pkl", b"\0" * (200 << 20))], zipfile.ZIP_DEFLATED),
        "zip_compressed_storage.pt": archive(members, zipfile.ZIP_DEFLATED),
        "zip_path_traversal.pt": archive([*members, ("../../outside", b"x")]),
        "zip_absolute_path.pt": archive([*members, ("/tmp/outside", b"x")]),
        "zip_two_objects.pt": archive([*members, ("b/data.pkl", b"N.")]),
        "zip_without_object.pt": archive([("a/readme", b"x")]),
        "zip_storage_short.pt": archive(short),
        "zip_storage_missing.pt": archive([m for m in members if not m[0].endswith("data/0")]),
        "zip_os_system.pt": archive(hostile),
        "zip_big_endian.pt": archive(big),
        "zip_truncated.pt": good[: len(good) // 2],
        "zip_name_is_no_text.pt": archive([("a/datä.pkl", b"N.")]).replace("ä".encode(), b"\xc3\x28"),
        "zip_empty.pt": archive([]),
        "zip_directory_lies.pt": overlapping.replace(struct.pack("<II", 50, 50), struct.pack("<II", 1 << 30, 1 << 30)),
        "zip_torchscript.pt": archive([(f"{root}/constants.pkl", b"N."), (f"{root}/code/__torch__.py", b"x")]),
    }


def edited(file, old, new):
    data = (GOLDEN / "pickles" / file).read_bytes()
    assert old in data
    return data.replace(old, new)


def damaged():
    """Good files cut, overwritten, or no checkpoints at all, by name."""
    good = (GOLDEN / "pickles" / "stylegan2_small_skip.pkl").read_bytes()
    state = {"input.input": torch.zeros(0, 1, 4, 4), "style.1.weight": torch.ones(2, 2), "style.1.bias": torch.ones(2)}
    return {
        "tensor_without_entries.pt": saved({"g_ema": state}),
        "empty.pkl": b"",
        "one_byte.pkl": b"\x80",
        "zeros.pkl": b"\0" * 1000,
        "truncated_half.pkl": good[: len(good) // 2],
        "truncated_last_byte.pkl": good[:-1],
        "html_page.pkl": b"<!DOCTYPE html><html><body>404</body></html>",
        "git_lfs_pointer.pkl": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "random_bytes.pkl": np.random.default_rng(0).bytes(4096),
        "renamed_layer.pkl": edited("stylegan2_small_skip.pkl", b"\x8c\x05conv1", b"\x8c\x05cnov1"),
        "tensorflow_renamed.tf.pkl": edited(
            "stylegan2_small_skip.tf.pkl", b"16x16/Conv1/weight", b"16x16/Conv1/wieght"
        ),
    }


def safetensors():
    """Safetensors files, by name."""

    def file(header, data, length=None):
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data

    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "overlapping.safetensors": file({"a": entry, "b": entry}, b"\0" * 8),
        "offsets_beyond.safetensors": file({"a": entry | {"data_offsets": [0, 800]}}, b"\0" * 8),
        "shape_lies.safetensors": file({"a": entry | {"shape": [1 << 40]}}, b"\0" * 8),
        "nan_header.safetensors": file(b'{"a": NaN}', b"\0" * 8),
        "header_length_huge.safetensors": file({"a": entry}, b"\0" * 8, length=1 << 60),
        "truncated.safetensors": file({"a": entry}, b"\0" * 3),
        "not_json.safetensors": file(b"{{{{", b""),
    }


def folders():
    """Files of BigGAN-deep folders, config.json and weights, by name."""
    options = json.loads((GOLDEN / "biggan_deep_64.json").read_text())["config"]
    weights = saved({"embeddings.weight": torch.zeros(16, 6)})
    configs = {
        "deep_missing_tensors": options,
        "deep_width_huge": options | {"channel_width": 10**12},
        "deep_classes_huge": options | {"num_classes": 10**15},
        "deep_width_nan": options | {"channel_width": float("nan")},
        "deep_width_boolean": options | {"channel_width": True},
        "deep_layers_million": options | {"layers": [[True, 1, 1]] * 100_000},
        "deep_layers_text": options | {"layers": "x"},
        "deep_statistics_infinite": options | {"n_stats": float("inf")},
        "deep_config_list": [options],
        "deep_config_not_json": "{",
        "deep_config_nested": "[" * 100_000 + "]" * 100_000,
        "deep_config_huge": json.dumps(options | {"comment": "x" * (2 << 20)}),
    }
    files = {}
    for name, config in configs.items():
        text = config if isinstance(config, str) else json.dumps(config)
        files |= {f"{name}/config.json": text.encode(), f"{name}/pytorch_model.bin": weights}
    return files


def write(folder):
    """Write all; returns the paths of the files, and of folders that are one checkpoint."""
    canary = folder / "CANARY"
    files = executors(canary) | memory_bombs() | tensors() | arrays() | archives(canary) | networks()
    files |= damaged() | safetensors() | folders()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return sorted({folder / name.partition("/")[0] for name in files})
