# SPDX-License-Identifier: Apache-2.0
"""Packed layers: a layer keeps its class and forward; its ``weight`` becomes a property over packed buffers.

``pack_module_`` swaps the class of a module for a dynamic subclass with the buffers ``weight_codes`` (uint8, see
:mod:`.packing`) and ``weight_scale`` (float32, broadcastable to the weight). Everything that reads ``self.weight``
(Conv, ConvTranspose, Linear, modulated convolutions) works unchanged, and ``isinstance`` stays true.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .packing import pack, packed_size, unpack


COMPUTE_MODES = ("dequantized", "packed")


@dataclass(frozen=True)
class PackedLayout:
    """What is needed to allocate and unpack one packed weight.

    Args:
        bits: 2 to 8.
        shape: Shape of the weight.
        scale_shape: Shape of the scales, broadcastable to ``shape``.
    """

    bits: int
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def packed_bytes(self) -> int:
        """Bytes of codes and scales."""
        return packed_size(self.numel, self.bits) + 4 * torch.Size(self.scale_shape).numel()


class PackedWeightMixin:
    """Read-only ``weight`` from packed buffers; ``codes * scale`` in float32, then cast to ``packed_dtype``."""

    packed_layout: PackedLayout
    packed_dtype: torch.dtype
    packed_compute: str

    @property
    def weight(self) -> Tensor:
        if self.packed_compute == "packed":
            return self.dequantized_weight()
        if self._dequantized is None:
            self._dequantized = self.dequantized_weight()
        return self._dequantized

    def dequantized_weight(self) -> Tensor:
        """Weight of its original shape in ``packed_dtype``."""
        layout = self.packed_layout
        codes = unpack(self.weight_codes, layout.bits, layout.numel).to(torch.float32) - 2 ** (layout.bits - 1)
        return (codes.view(layout.shape) * self.weight_scale).to(self.packed_dtype)

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of codes and scales."""
        digest = hashlib.sha256(self.weight_codes.cpu().numpy().tobytes())
        digest.update(self.weight_scale.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        inherited = super().extra_repr()
        return ", ".join(
            filter(None, [inherited, f"bits={self.packed_layout.bits}", f"compute={self.packed_compute}"])
        )

    def _apply(self, fn, recurse=True):
        # Casting a model casts what it computes with; codes and scales stay exact.
        scale = self.weight_scale
        probe = fn(torch.zeros((), dtype=self.packed_dtype, device=scale.device))
        super()._apply(fn, recurse)
        self._dequantized = None
        self.packed_dtype = probe.dtype
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self

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
    module: nn.Module, layout: PackedLayout, codes: Tensor, scale: Tensor, *, dtype: torch.dtype, compute: str
) -> None:
    """Replace ``module.weight`` by packed buffers.

    Args:
        module: Layer with a parameter ``weight`` of shape ``layout.shape``.
        layout: Storage layout.
        codes: Packed codes (uint8); on the meta device they are filled later.
        scale: float32 scales of shape ``layout.scale_shape``.
        dtype: Floating dtype of the unpacked weight.
        compute: "dequantized" (unpack once, on first use) or "packed" (unpack in every forward).
    """
    del module._parameters["weight"]
    module.register_buffer("weight_codes", codes)
    module.register_buffer("weight_scale", scale)
    module.packed_layout, module.packed_dtype, module.packed_compute = layout, dtype, compute
    module._dequantized = None
    module.__class__ = packed_class(type(module))


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Signed codes in ``-2**(bits-1) .. 2**(bits-1) - 1`` (any shape) to packed bytes."""
    return pack((codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8), bits)


def unpack_module_(module: nn.Module) -> None:
    """Turn a packed layer back into its original class with an ordinary (frozen) parameter."""
    weight = module.dequantized_weight()
    for name in ("weight_codes", "weight_scale"):
        del module._buffers[name]
    for name in ("packed_layout", "packed_dtype", "packed_compute", "_dequantized"):
        del module.__dict__[name]
    module.__class__ = base_class(module)
    module.weight = nn.Parameter(weight, requires_grad=False)


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Packed layers of a model by module name."""
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
