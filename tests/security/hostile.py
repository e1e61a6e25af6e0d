# SPDX-License-Identifier: Apache-2.0
"""Write hostile and damaged checkpoints into a folder; each would act, or exhaust memory, in a careless reader.

    python -m tests.security.hostile FOLDER

Those that would act create the file CANARY in that folder.
"""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from tests.checkpoints.foreign import fake_modules, reconstruct_persistent


GOLDEN = Path(__file__).parents[1] / "golden"
NAN = float("nan")


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


class bytes_of:
    """Raw opcodes as an argument."""

    def __init__(self, body):
        self.body = body


def program(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def frameless(value):
    """Opcodes of a plain value, without frame and stop."""
    data = pickle.dumps(value, protocol=2)
    return data[2:-1]


def invoke(module, name, *args):
    """A whole pickle that calls module.name(*args)."""
    packed = b"".join(value.body if isinstance(value, bytes_of) else frameless(value) for value in args)
    return program(text(module), text(name), b"\x93(", packed, b"tR")


def executors(canary):
    """Pickles that run code, by name."""
    command = f"touch {canary}"
    source = f"open({str(canary)!r}, 'w')"
    getter = bytes_of(text("builtins") + text("getattr") + b"\x93(" + text("os") + text("system") + b"tR")
    nested = bytes_of(invoke("os", "system", command)[2:-1])
    module = bytes_of(text("builtins") + text("__import__") + b"\x93(" + text("os") + b"tR")
    files = {
        "os_system": invoke("os", "system", command),
        "posix_system": invoke("posix", "system", command),
        "protocol0_os_system": b"cos\nsystem\n(V" + command.encode() + b"\ntR.",
        "inst_opcode": b"(V" + command.encode() + b"\nios\nsystem\n.",
        "obj_opcode": b"\x80\x02(cos\nsystem\n" + text(command) + b"o.",
        "newobj": program(text("os"), text("system"), b"\x93", frameless((command,)), b"\x81"),
        "newobj_ex": program(text("subprocess"), text("Popen"), b"\x93", frameless((command,)), b"}\x92"),
        "extension_registry": b"\x80\x02\x82\x01(tR.",
        "eval": invoke("builtins", "eval", source),
        "exec": invoke("builtins", "exec", source),
        "python2_eval": invoke("__builtin__", "eval", source),
        "compile": invoke("builtins", "compile", source, "x", "exec"),
        "open": invoke("builtins", "open", str(canary), "w"),
        "getattr_chain": invoke("builtins", "getattr", module, "system"),
        "getattr_called": program(getter.body, b"(", text(command), b"tR"),
        "import": invoke("builtins", "__import__", "os"),
        "importlib": invoke("importlib", "import_module", "os"),
        "nested_reduce": invoke("collections", "OrderedDict", nested),
        "argument_of_a_tensor": invoke("torch._utils", "_rebuild_tensor_v2", nested),
        "partial": invoke("functools", "partial", bytes_of(text("os") + text("system") + b"\x93"), command),
        "map": invoke("builtins", "map", bytes_of(text("os") + text("system") + b"\x93"), [command]),
        "attrgetter": invoke("operator", "attrgetter", "system"),
        "methodcaller": invoke("operator", "methodcaller", "system", command),
        "subprocess": invoke("subprocess", "check_output", ["touch", str(canary)]),
        "runpy": invoke("runpy", "run_path", str(canary)),
        "marshal": invoke("marshal", "loads", b"c"),
        "code_object": invoke("types", "CodeType", 0),
        "function_type": invoke("types", "FunctionType", 0),
        "codecs_decode": invoke("_codecs", "decode", b"x", "unicode_escape"),
        "codecs_rot13": invoke("_codecs", "encode", "x", "rot13"),
        "codecs_open": invoke("codecs", "open", str(canary), "w"),
        "pickle_in_pickle": invoke("pickle", "loads", invoke("os", "system", command)),
        "torch_load": invoke("torch", "load", str(canary)),
        "torch_hub": invoke("torch.hub", "load", "a/b", "c"),
        "torch_jit": invoke("torch.jit", "load", str(canary)),
        "numpy_load": invoke("numpy", "load", str(canary)),
        "numpy_runstring": invoke("numpy.testing._private.utils", "runstring", source, {}),
        "crackfortran": invoke("numpy.f2py.crackfortran", "myeval", source, {}, {}),
        "torch_module_dotted": invoke("torch.nn.modules", "module.torch.os.system", command),
        "torch_utils_private": invoke("torch_utils.persistence", "_src_to_module", source),
        "socket": invoke("socket", "create_connection", ("127.0.0.1", 9)),
        "rmtree": invoke("shutil", "rmtree", str(Path(canary).parent / "nothing")),
        "webbrowser": invoke("webbrowser", "open", "http://127.0.0.1"),
        "persistent_id": program(frameless(("storage", 1)), b"Q"),
        "persistent_id_text": b"Pos.system\n.",
        "build_on_name": program(text("collections"), text("OrderedDict"), b"\x93", frameless({"a": 1}), b"b"),
        "call_of_a_value": program(frameless("x"), b")R"),
        "call_of_an_object": program(text("dnnlib"), text("EasyDict"), b"\x93)\x81)R"),
        "hidden_after_stop": program(b"N") + invoke("os", "system", command),
        "source_of_a_network": invoke(
            "torch_utils.persistence",
            "_reconstruct_persistent_obj",
            {"type": "class", "version": 6, "module_src": source, "class_name": "Generator", "state": {}},
        ),
        "load_from_bytes": invoke("torch.storage", "_load_from_bytes", invoke("os", "system", command)),
    }
    return {f"{name}.pkl": data for name, data in files.items()}


def memory_bombs():
    """Small pickles that ask for much memory, depth or time, by name."""
    laughs = (
        b"]"
        + b"q\x00"
        + b"".join(b"](h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    )
    return {
        "memo_index.pkl": b"\x80\x02Nr\xff\xff\xff\xff.",
        "memo_negative.pkl": b"Np-5\n.",
        "memo_missing.pkl": b"\x80\x02j\xff\xff\xff\x7f.",
        "bytes_8_exabytes.pkl": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        "bytearray_8_exabytes.pkl": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",
        "text_4_gigabytes.pkl": b"\x80\x02X" + struct.pack("<I", 0xFFFFFFF0) + b"x.",
        "string_negative.pkl": b"\x80\x02T" + struct.pack("<i", -5) + b"x.",
        "long_negative.pkl": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"x.",
        "frame_huge.pkl": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N",
        "huge_integer.pkl": b"\x80\x02\x8b" + struct.pack("<i", 1 << 16) + b"\x7f" * (1 << 16) + b".",
        "many_digits.pkl": b"L" + b"9" * 4000 + b"L\n.",
        "endless_line.pkl": b"V" + b"a" * 100_000,
        "nested_lists.pkl": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "nested_tuple_as_key.pkl": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
        "nested_tuple_in_set.pkl": b"\x80\x04\x8f()" + b"\x85" * 200_000 + b"\x90.",
        "billion_laughs.pkl": b"\x80\x02" + laughs + b".",
        "three_million_values.pkl": b"\x80\x02" + b"N0" * 1_500_000 + b"N.",
        "unhashable_key.pkl": b"\x80\x02}]Ns.",
        "empty_stack.pkl": b"\x80\x02R.",
        "no_mark.pkl": b"\x80\x02e.",
        "only_marks.pkl": b"\x80\x02((((.",
        "opcode_unknown.pkl": b"\x80\x02\xff.",
    }


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


def arrays():
    """Pickles with numpy arrays that are no plain numbers, or lie, by name."""

    def reconstructed(shape, dtype, data):
        kind = text("numpy") + text("dtype") + b"\x93(" + frameless(dtype) + b"\x89\x88tR"
        kind += frameless((3, "<", None, None, None, -1, -1, 0)) + b"b"
        made = text("numpy.core.multiarray") + text("_reconstruct") + b"\x93(N" + frameless((0,)) + frameless(b"b")
        made += b"tR(" + frameless(1) + frameless(shape) + kind + b"\x89" + b"C" + bytes([len(data)]) + data + b"tb"
        return program(made)

    return {
        "object_array.pkl": pickle.dumps(np.array([os.getcwd], dtype=object), 4),
        "array_of_objects_by_name.pkl": reconstructed((1,), "O8", b"\0" * 8),
        "array_void.pkl": reconstructed((1,), "V8", b"\0" * 8),
        "array_structured.pkl": reconstructed((1,), "f4,(100000,100000)f8", b"\0" * 8),
        "array_shape_huge.pkl": reconstructed((1 << 40,), "f4", b"\0" * 8),
        "array_shape_negative.pkl": reconstructed((-2,), "f4", b"\0" * 8),
        "array_type_unknown.pkl": reconstructed((1,), "q9", b"\0" * 8),
    }


def archives(canary):
    """Zip files, by name."""

    def archive(members, compression=zipfile.ZIP_STORED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as file:
            for name, data in members:
                file.writestr(name, data)
        return buffer.getvalue()

    good = io.BytesIO()
    torch.save({"a": torch.arange(64.0)}, good)
    good = good.getvalue()
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    root = members[0][0].split("/")[0]
    short = [(name, data[:-4] if name.endswith("data/0") else data) for name, data in members]
    hostile = [
        (name, invoke("os", "system", f"touch {canary}") if name.endswith("data.pkl") else data)
        for name, data in members
    ]
    big = [(name, b"big" if name.endswith("byteorder") else data) for name, data in members]
    overlapping = bytearray(archive([("a/data.pkl", b"\x80\x02N."), ("a/data/0", b"x" * 50)]))
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
        "zip_directory_lies.pt": bytes(overlapping).replace(
            struct.pack("<II", 50, 50), struct.pack("<II", 1 << 30, 1 << 30)
        ),
        "zip_torchscript.pt": archive([(f"{root}/constants.pkl", b"N."), (f"{root}/code/__torch__.py", b"x")]),
    }


class _Module:
    """A pickled torch module: an object of torch_utils.persistence."""

    def __init__(self, **state):
        self.state = state

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": "Generator", "state": self.state}
        return reconstruct_persistent, (meta,)


def networks():
    """StyleGAN pickles whose modules contradict themselves, by name."""

    def saved(state):
        with fake_modules(torch_utils__persistence___reconstruct_persistent_obj=reconstruct_persistent):
            return pickle.dumps({"G_ema": _Module(**state)}, 4)

    def module(**tensors):
        return {"_parameters": tensors, "_buffers": {}, "_modules": {}}

    deep = module()
    for _ in range(60):
        deep = {"_parameters": {}, "_buffers": {}, "_modules": {"a": _Module(**deep)}}
    loop = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    wide = {"_parameters": {"x": "text"}, "_buffers": {}, "_modules": {}}
    loop["_modules"]["self"] = _Module(**deep)
    return {
        "network_empty.pkl": saved(module()),
        "network_nested_60_deep.pkl": saved(deep),
        "network_text_as_parameter.pkl": saved(wide),
        "network_in_itself.pkl": saved(loop),
        "network_without_modules.pkl": saved({"_parameters": {}, "_buffers": {}, "_modules": None}),
    }


def edited(file, old, new):
    data = (GOLDEN / "pickles" / file).read_bytes()
    assert old in data
    return data.replace(old, new)


def damaged():
    """Good files cut, overwritten, or no checkpoints at all, by name."""
    good = (GOLDEN / "pickles" / "stylegan2_small_skip.pkl").read_bytes()
    state = {"input.input": torch.zeros(0, 1, 4, 4), "style.1.weight": torch.ones(2, 2), "style.1.bias": torch.ones(2)}
    empty = io.BytesIO()
    torch.save({"g_ema": state}, empty)
    return {
        "tensor_without_entries.pt": empty.getvalue(),
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
    """BigGAN-deep folders: config.json and weights, by name."""
    options = json.loads((GOLDEN / "biggan_deep_64.json").read_text())["config"]
    weights = io.BytesIO()
    torch.save({"embeddings.weight": torch.zeros(16, 6)}, weights)

    def folder(config):
        return {
            "config.json": config if isinstance(config, str) else json.dumps(config),
            "pytorch_model.bin": weights.getvalue(),
        }

    return {
        "deep_missing_tensors": folder(options),
        "deep_width_huge": folder(options | {"channel_width": 10**12}),
        "deep_classes_huge": folder(options | {"num_classes": 10**15}),
        "deep_width_nan": folder(options | {"channel_width": NAN}),
        "deep_width_boolean": folder(options | {"channel_width": True}),
        "deep_layers_million": folder(options | {"layers": [[True, 1, 1]] * 100_000}),
        "deep_layers_text": folder(options | {"layers": "x"}),
        "deep_statistics_infinite": folder(options | {"n_stats": float("inf")}),
        "deep_config_list": folder([options]),
        "deep_config_not_json": folder("{"),
        "deep_config_nested": folder("[" * 100_000 + "]" * 100_000),
        "deep_config_huge": folder(json.dumps(options | {"comment": "x" * (2 << 20)})),
    }


def write(folder):
    """Write all; returns their paths."""
    folder = Path(folder)
    canary = folder / "CANARY"
    files = executors(canary) | memory_bombs() | tensors() | arrays() | archives(canary) | networks()
    files |= damaged() | safetensors()
    paths = []
    for name, data in files.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    for name, members in folders().items():
        paths.append(folder / name)
        paths[-1].mkdir()
        for member, data in members.items():
            (paths[-1] / member).write_bytes(data.encode() if isinstance(data, str) else data)
    return paths


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    print(f"{len(write(sys.argv[1]))} files")
