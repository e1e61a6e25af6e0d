# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint may name, and how tensors, arrays and containers are rebuilt from their parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pickle_reader import DamagedCheckpointError, Instance, Name, UnsafeCheckpointError


STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ARRAY_KINDS = "biufc"
_INERT_MODULES = ("torch.nn.modules.", "torch.nn.parameter", "dnnlib", "torch_utils.")
_CALLED = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "_load_from_bytes"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("argparse", "Namespace"),
    *((module, name) for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar", "_frombuffer")),
    *((m, name) for m in ("builtins", "__builtin__") for name in ("set", "frozenset", "slice", "complex", "object")),
}
_DTYPE_NAMES = {str(dtype).removeprefix("torch.") for dtype in STORAGE_DTYPES.values()}


@dataclass(frozen=True)
class Storage:
    """Numbers of one tensor storage, one-dimensional."""

    values: Tensor


@dataclass(eq=False)
class _DType:
    """A numpy dtype without its byte order."""

    code: str


@dataclass(eq=False)
class _Array:
    """A numpy array whose state is still to come."""


def allowed(name: Name) -> bool:
    """Whether a checkpoint may mention ``name``."""
    if (name.module, name.name) in _CALLED:
        return True
    if name.module == "torch" and (name.name in STORAGE_DTYPES or name.name in _DTYPE_NAMES):
        return True
    return f"{name.module}.".startswith(_INERT_MODULES) and "_" != name.name[:1] and "." not in name.name


def call(name: Name, args: tuple[Any, ...]) -> Any:
    """Value of a call of an allowed name.

    Raises:
        UnsafeCheckpointError: The name is not one that is called.
        DamagedCheckpointError: Arguments that contradict each other.
    """
    short = name.name
    if short == "OrderedDict" or short == "defaultdict":
        return dict(args[0]) if args and isinstance(args[0], list) else {}
    if short in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return _tensor(*args[:4])
    if short == "_rebuild_parameter":
        return args[0]
    if short == "_reconstruct_persistent_obj":
        return _persistent_object(*args)
    if short == "Size":
        return tuple(args[0]) if args else ()
    if short == "_reconstruct":
        return _Array()
    if short == "scalar":
        dtype, data = args
        return _array(dtype, (), data, False).item()
    if short == "_frombuffer":
        data, dtype, shape, order = args
        return _array(dtype, shape, data, order == "F")
    if name == Name("numpy", "dtype"):
        return _DType(_checked_code(args[0]))
    if short == "encode":
        text, encoding = args
        if encoding != "latin1":
            raise UnsafeCheckpointError(f"the pickle encodes text as {encoding!r}; allowed is 'latin1'.")
        return text.encode("latin-1")
    if short == "_reconstructor":
        return Instance(args[0]) if isinstance(args[0], Name) else {}
    if short in ("set", "frozenset"):
        return set(args[0]) if args else set()
    if short in ("slice", "complex", "device", "Namespace") or f"{name.module}.".startswith(_INERT_MODULES):
        return Instance(name, args)
    raise UnsafeCheckpointError(f"the pickle calls {name}.")


def build(target: Any, state: Any) -> Any:
    """``target`` with its state."""
    if isinstance(target, _DType):
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            raise UnsafeCheckpointError("the pickle has big-endian arrays; allowed are little-endian ones.")
        return target
    if isinstance(target, _Array):
        _, shape, dtype, fortran, data = state
        return _array(dtype, shape, data, bool(fortran))
    if isinstance(target, Instance):
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        target.state = state
        return target
    if isinstance(target, dict):  # attributes of an ordered dict, such as a state dict's metadata
        return target
    raise UnsafeCheckpointError(f"the pickle sets the state of {type(target).__name__}.")


def storage(dtype: torch.dtype, data: memoryview | bytes, count: int) -> Storage:
    """``count`` numbers from ``data``; not copied where ``data`` can be written.

    Raises:
        DamagedCheckpointError: ``data`` has another size.
    """
    size = torch.empty(0, dtype=dtype).element_size()
    if count < 0 or len(data) != count * size:
        raise DamagedCheckpointError(
            f"a storage declares {count:,} numbers of {size} bytes, and has {len(data):,} bytes."
        )
    if not count:
        return Storage(torch.empty(0, dtype=dtype))
    view = memoryview(data)
    return Storage(torch.frombuffer(bytearray(view) if view.readonly else view, dtype=dtype))


def _tensor(source: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if not isinstance(source, Storage):
        raise DamagedCheckpointError("a tensor has no storage.")
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(stride):
        raise DamagedCheckpointError(f"a tensor has offset {offset!r}, size {size!r}, stride {stride!r}.")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset
    if count > source.values.numel() or (count and last >= source.values.numel()):
        raise DamagedCheckpointError(
            f"a tensor of size {tuple(size)} needs more than the {source.values.numel():,} numbers of its storage."
        )
    return source.values.as_strided(tuple(size), tuple(stride), offset)


def _checked_code(code: Any) -> str:
    try:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 4 else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in _ARRAY_KINDS:
        raise UnsafeCheckpointError(f"the pickle has an array of type {code!r}; allowed are numbers.")
    return dtype.str.replace(">", "<")


def _array(dtype: Any, shape: Any, data: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or not isinstance(data, (bytes, memoryview)):
        raise DamagedCheckpointError("an array lacks its type, shape or numbers.")
    if not all(type(number) is int and number >= 0 for number in shape):
        raise DamagedCheckpointError(f"an array has shape {shape!r}.")
    found = np.dtype(dtype.code)
    if math.prod(shape) * found.itemsize != len(data):
        raise DamagedCheckpointError(f"an array of shape {shape} and type {found} has {len(data):,} bytes.")
    return np.frombuffer(data, found).reshape(shape, order="F" if fortran else "C")


def _persistent_object(meta: Any) -> Instance:
    """An object of a StyleGAN pickle; its class travels as source text, which is ignored."""
    fields = meta.items if isinstance(meta, Instance) else meta
    if not isinstance(fields, dict) or not isinstance(fields.get("class_name"), str):
        raise DamagedCheckpointError("an object of the pickle has no class name.")
    return Instance(Name("persistent", fields["class_name"]), state=fields.get("state"))
