# SPDX-License-Identifier: Apache-2.0
"""Pickles that would run code or exhaust memory in a careless reader, and such as contradict themselves."""

import os
import pickle
import struct
from typing import NamedTuple

import numpy as np

from ..checkpoints.foreign import Persistent, persistent_pickle


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


class bytes_of(NamedTuple):
    """Raw opcodes as an argument."""

    body: bytes


def program(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def frameless(value):
    """Opcodes of a plain value, without frame and stop."""
    return pickle.dumps(value, protocol=2)[2:-1]


def invoke(module, name, *args):
    """A whole pickle that calls module.name(*args)."""
    packed = b"".join(value.body if isinstance(value, bytes_of) else frameless(value) for value in args)
    return program(text(module), text(name), b"\x93(", packed, b"tR")


def callers(canary):
    """Pickles that call what runs code, opens files or finds what does, by its dotted name."""
    calls = {  # by argument
        f"touch {canary}": "os.system posix.system subprocess.getoutput operator.methodcaller webbrowser.open",
        _source(canary): "builtins.eval builtins.exec __builtin__.eval torch_utils.persistence._src_to_module",
        str(canary): "runpy.run_path torch.load torch.jit.load torch.hub.load numpy.load codecs.open shutil.rmtree",
        "os": "builtins.__import__ importlib.import_module operator.attrgetter",
        0: "types.CodeType types.FunctionType marshal.loads socket.create_connection",
    }
    return {name: invoke(*name.rsplit(".", 1), argument) for argument in calls for name in calls[argument].split()}


def _source(canary):
    return f"open({str(canary)!r}, 'w')"


def executors(canary):
    """Pickles that run code, by name."""
    command, source = f"touch {canary}", _source(canary)
    getter = bytes_of(text("builtins") + text("getattr") + b"\x93(" + text("os") + text("system") + b"tR")
    nested = bytes_of(invoke("os", "system", command)[2:-1])
    module = bytes_of(text("builtins") + text("__import__") + b"\x93(" + text("os") + b"tR")
    files = callers(canary) | {
        "protocol0_os_system": b"cos\nsystem\n(V" + command.encode() + b"\ntR.",
        "inst_opcode": b"(V" + command.encode() + b"\nios\nsystem\n.",
        "obj_opcode": b"\x80\x02(cos\nsystem\n" + text(command) + b"o.",
        "newobj": program(text("os"), text("system"), b"\x93", frameless((command,)), b"\x81"),
        "newobj_ex": program(text("subprocess"), text("Popen"), b"\x93", frameless((command,)), b"}\x92"),
        "extension_registry": b"\x80\x02\x82\x01(tR.",
        "compile": invoke("builtins", "compile", source, "x", "exec"),
        "open": invoke("builtins", "open", str(canary), "w"),
        "getattr_chain": invoke("builtins", "getattr", module, "system"),
        "getattr_called": program(getter.body, b"(", text(command), b"tR"),
        "nested_reduce": invoke("collections", "OrderedDict", nested),
        "argument_of_a_tensor": invoke("torch._utils", "_rebuild_tensor_v2", nested),
        "partial": invoke("functools", "partial", bytes_of(text("os") + text("system") + b"\x93"), command),
        "map": invoke("builtins", "map", bytes_of(text("os") + text("system") + b"\x93"), [command]),
        "subprocess": invoke("subprocess", "check_output", ["touch", str(canary)]),
        "codecs_decode": invoke("_codecs", "decode", b"x", "unicode_escape"),
        "codecs_rot13": invoke("_codecs", "encode", "x", "rot13"),
        "pickle_in_pickle": invoke("pickle", "loads", invoke("os", "system", command)),
        "numpy_runstring": invoke("numpy.testing._private.utils", "runstring", source, {}),
        "crackfortran": invoke("numpy.f2py.crackfortran", "myeval", source, {}, {}),
        "torch_module_dotted": invoke("torch.nn.modules", "module.torch.os.system", command),
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
    laughs = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
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


def networks():
    """StyleGAN pickles whose modules contradict themselves, by name."""

    def saved(state):
        return persistent_pickle({"G_ema": Persistent(state)})

    def module(**tensors):
        return {"_parameters": tensors, "_buffers": {}, "_modules": {}}

    deep = module()
    for _ in range(60):
        deep = module() | {"_modules": {"a": Persistent(deep)}}
    return {
        "network_empty.pkl": saved(module()),
        "network_nested_60_deep.pkl": saved(deep),
        "network_text_as_parameter.pkl": saved(module(x="text")),
        "network_in_itself.pkl": saved(module() | {"_modules": {"self": Persistent(deep)}}),
        "network_without_modules.pkl": saved({"_parameters": {}, "_buffers": {}, "_modules": None}),
    }
