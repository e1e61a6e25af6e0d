# SPDX-License-Identifier: Apache-2.0
"""Packed layers: a layer keeps its class and forward; its ``weight`` becomes a property over packed buffers.

``pack_module_`` swaps the class of a module for a dynamic subclass with the buffers ``weight_codes`` (uint8, see
:mod:`.packing`), ``weight_scale`` and, where the method needs them, ``weight_offset``, ``weight_codebook`` and
``weight_sources``. Everything that reads ``self.weight`` (Conv, ConvTranspose, Linear, modulated convolutions) works
unchanged, and ``isinstance`` stays true.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..components import all_networks, is_pipeline
from .grid import QuantizedRows, fold_channels, to_values
from .packing import pack, packed_size, unpack


COMPUTE_MODES = ("dequantized", "packed")
BUFFERS = ("weight_codes", "weight_scale", "weight_offset", "weight_codebook", "weight_sources")
_SCALE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class PackedLayout:
    """What is needed to allocate and unpack one packed weight.

    Args:
        bits: 2 to 8.
        shape: Shape of the weight.
        rows: Number of scales: the weight, output channels first, is cut into as many rows of equal length.
        axis: Axis of the output channels: 0, or 1 for transposed convolutions.
        scale_dtype: "float32" or "float16", of scales and offsets.
        level_offset: 0, or 0.5 for levels on both sides of zero.
        codebook: Levels come from a codebook of the tensor.
        offset: Rows have an offset (asymmetric quantization).
        splits: Number of input channels that were split; their copies follow the others.
    """

    bits: int
    shape: tuple[int, ...]
    rows: int
    axis: int = 0
    scale_dtype: str = "float32"
    level_offset: float = 0.0
    codebook: bool = False
    offset: bool = False
    splits: int = 0

    def __post_init__(self):
        problems = [
            f"{name} is {getattr(self, name)!r}"
            for name, fits in {
                "shape": len(self.shape) >= 2 and all(type(size) is int and size > 0 for size in self.shape),
                "axis": self.axis in (0, 1),
                "rows": type(self.rows) is int and self.rows > 0,
                "scale_dtype": self.scale_dtype in _SCALE_DTYPES,
                "level_offset": self.level_offset in (0.0, 0.5),
                "splits": type(self.splits) is int and self.splits >= 0,
            }.items()
            if not fits
        ]
        if problems or self.num_codes % self.rows:
            raise ValueError(f"impossible layout: {'; '.join(problems) or 'the rows do not divide the weight'}")

    @property
    def num_codes(self) -> int:
        """Number of stored codes: of weights, and of the copies of split channels."""
        return torch.Size(self.shape).numel() // self.shape[1 - self.axis] * (self.shape[1 - self.axis] + self.splits)

    @property
    def moved_shape(self) -> tuple[int, ...]:
        """Shape with the output channels first, without split channels."""
        return (self.shape[1], self.shape[0], *self.shape[2:]) if self.axis else self.shape

    @property
    def buffers(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every buffer."""
        dtype = _SCALE_DTYPES[self.scale_dtype]
        found = {
            "weight_codes": ((packed_size(self.num_codes, self.bits),), torch.uint8),
            "weight_scale": ((self.rows, 1), dtype),
        }
        if self.offset:
            found["weight_offset"] = ((self.rows, 1), dtype)
        if self.codebook:
            found["weight_codebook"] = ((2**self.bits,), torch.float16)
        if self.splits:
            found["weight_sources"] = ((self.splits,), torch.int16)
        return found

    @property
    def packed_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in self.buffers.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON types, defaults left out."""
        fields = dataclasses.fields(self)
        values = {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}
        return values | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> PackedLayout:
        """Inverse of :meth:`to_dict`; other entries are ignored.

        Raises:
            KeyError, TypeError, ValueError: A missing or impossible entry.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        known = {name: value for name, value in entry.items() if name in names}
        return cls(**known | {"shape": tuple(entry["shape"])})


def pack_rows(quantized: QuantizedRows, layout: PackedLayout) -> dict[str, Tensor]:
    """Buffers of a packed layer by name."""
    found = {
        "weight_codes": pack_codes(quantized.codes, layout.bits),
        "weight_scale": quantized.scale,
        "weight_offset": quantized.offset,
        "weight_codebook": None if quantized.codebook is None else quantized.codebook.half(),
        "weight_sources": quantized.sources,
    }
    return {name: found[name].contiguous() for name in layout.buffers}


def unpack_rows(buffers: dict[str, Tensor], layout: PackedLayout) -> Tensor:
    """Float32 weight of ``layout.shape`` from the buffers of a packed layer."""
    codes = unpack(buffers["weight_codes"], layout.bits, layout.num_codes).view(layout.rows, -1)
    codebook = buffers.get("weight_codebook")
    if codebook is None:
        codes = codes.to(torch.float32).sub_(2 ** (layout.bits - 1))
    values = to_values(codes, buffers["weight_scale"], layout.level_offset, codebook, buffers.get("weight_offset"))
    outputs, inputs, *kernel = layout.moved_shape
    if layout.splits:
        values = fold_channels(values.view(outputs, inputs + layout.splits, -1), buffers["weight_sources"])
    values = values.reshape(outputs, inputs, *kernel)
    return values.transpose(0, 1).contiguous() if layout.axis else values


class PackedWeight(Tensor):
    """The unpacked weight of a packed layer: a tensor whose ``data`` cannot be reached, so that nothing writes into a copy."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self):
        raise RuntimeError(
            "the weight of a packed layer is read-only: writing to it, for example by merging a LoRA, would be lost. "
            "Call hf_ganzip.dequantize_(model) first, or keep the LoRA unmerged."
        )


class PackedWeightMixin:
    """Read-only ``weight`` from packed buffers, computed in float32, then cast to ``packed_dtype``."""

    packed_layout: PackedLayout
    packed_dtype: torch.dtype
    packed_compute: str

    @property
    def weight(self) -> Tensor:
        if self.packed_compute == "packed":
            return self.dequantized_weight().as_subclass(PackedWeight)
        if self._dequantized is None or self._dequantized.device != self.weight_codes.device:
            self._dequantized = self.dequantized_weight().as_subclass(PackedWeight)
        return self._dequantized

    def dequantized_weight(self) -> Tensor:
        """Weight of its original shape in ``packed_dtype``."""
        return unpack_rows(self.packed_buffers(), self.packed_layout).to(self.packed_dtype)

    def packed_buffers(self) -> dict[str, Tensor]:
        """The packed buffers by name."""
        return {name: self._buffers[name] for name in BUFFERS if name in self._buffers}

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all packed buffers."""
        digest = hashlib.sha256()
        for tensor in self.packed_buffers().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        inherited = super().extra_repr()
        return ", ".join(
            filter(None, [inherited, f"bits={self.packed_layout.bits}", f"compute={self.packed_compute}"])
        )

    def _apply(self, fn, recurse=True):
        # Casting a model casts what it computes with; codes and scales stay exact.
        exact = self.packed_buffers()
        probe = fn(torch.zeros((), dtype=self.packed_dtype, device=self.weight_scale.device))
        if probe.dtype.itemsize == 1:
            raise RuntimeError(
                f"a packed layer cannot be cast to {probe.dtype}: layerwise casting would destroy its scales, and its "
                "weights are smaller already. Leave it out; set_compute_(model, 'packed') saves memory instead."
            )
        super()._apply(fn, recurse)
        self._dequantized = None
        self.packed_dtype = probe.dtype
        for name, tensor in exact.items():
            if self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._dequantized = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_dequantized": None}

    def __reduce_ex__(self, protocol):
        # Dynamic classes have no importable name: deepcopy and pickle go through the original class.
        return _unpickle, (base_class(self),), self.__getstate__()


@functools.cache
def packed_class(base: type[nn.Module]) -> type[nn.Module]:
    """The packed subclass of a layer class."""
    return type(f"Packed{base.__name__}", (PackedWeightMixin, base), {"__module__": base.__module__})


def base_class(module: nn.Module) -> type[nn.Module]:
    """The layer class that a packed module had before."""
    return type(module).__mro__[2]


def _unpickle(base: type[nn.Module]) -> nn.Module:
    cls = packed_class(base)
    return cls.__new__(cls)


def pack_module_(
    module: nn.Module, layout: PackedLayout, buffers: dict[str, Tensor], *, dtype: torch.dtype, compute: str
) -> None:
    """Replace ``module.weight`` by packed buffers.

    Args:
        module: Layer with a parameter ``weight`` of shape ``layout.shape``.
        layout: Storage layout.
        buffers: Tensors of the shapes and dtypes of ``layout.buffers``; on the meta device they are filled later.
        dtype: Floating dtype of the unpacked weight.
        compute: "dequantized" (unpack once, on first use) or "packed" (unpack in every forward).
    """
    del module._parameters["weight"]
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor)
    module.packed_layout, module.packed_dtype, module.packed_compute = layout, dtype, compute
    module._dequantized = None
    module.__class__ = packed_class(type(module))


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Signed codes in ``-2**(bits-1) .. 2**(bits-1) - 1`` (any shape) to packed bytes."""
    return pack((codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8), bits)


def unpack_module_(module: nn.Module) -> None:
    """Turn a packed layer back into its original class with an ordinary (frozen) parameter."""
    weight = module.dequantized_weight()
    for name in module.packed_buffers():
        del module._buffers[name]
    for name in ("packed_layout", "packed_dtype", "packed_compute", "_dequantized"):
        del module.__dict__[name]
    module.__class__ = base_class(module)
    module.weight = nn.Parameter(weight, requires_grad=False)


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Packed layers of a model by module name; of a pipeline, behind the names of its networks."""
    if is_pipeline(model):
        found = {part: packed_modules(network) for part, network in all_networks(model).items()}
        return {f"{part}.{name}": module for part, modules in found.items() for name, module in modules.items()}
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedWeightMixin)}


def set_compute_(model: nn.Module, compute: str) -> None:
    """Choose how packed layers compute: "dequantized" is fast, "packed" keeps only packed weights in memory.

    Raises:
        ValueError: Unknown mode, or the model has no packed layer.
    """
    if compute not in COMPUTE_MODES:
        raise ValueError(f"set_compute_: compute is {compute!r}; allowed are {', '.join(COMPUTE_MODES)}.")
    modules = packed_modules(model)
    if not modules:
        raise ValueError("set_compute_: the model has no packed layer; quantize it first.")
    for module in modules.values():
        module.packed_compute, module._dequantized = compute, None
