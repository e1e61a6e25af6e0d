# SPDX-License-Identifier: Apache-2.0
"""Packed layers: a layer keeps its class and forward; its ``weight`` becomes a property over packed buffers.

``pack_module_`` swaps the class of a module for a dynamic subclass with the buffers ``weight_codes`` (uint8, see
:mod:`.packing`), ``weight_scale`` and, where they are needed, ``weight_offset``, ``weight_codebook``,
``weight_sources``, ``weight_up`` and ``weight_down``. Everything that reads ``self.weight`` (Conv, ConvTranspose,
Linear, modulated convolutions) works unchanged, and ``isinstance`` stays true.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ..core.components import all_networks, is_pipeline
from .buffers import BUFFERS, unpack_rows
from .fused import FUSED, with_fused
from .integers import Integers, computes_plainly, integer_energy, integer_forward
from .layout import PackedLayout


COMPUTE_MODES = ("packed", "dequantized", "int8")

_READ_ONLY = (
    "the weight of a packed layer is read-only: writing to it, for example by merging a LoRA by hand, or a DoRA, "
    "would be lost. Call hf_ganzip.dequantize_(model) first, or keep the adapter unmerged."
)
_WRITES = re.compile(
    r"__set\w*__|__i(add|sub|mul|div|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift)__|[a-z]\w*[^_]_"
)


class _ReadOnly(Tensor):
    """A copy of a packed weight that can be read, as loaders of adapters do; to operate on it in place raises."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _WRITES.fullmatch(func.__name__) and args and isinstance(args[0], cls):
            raise RuntimeError(_READ_ONLY)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class PackedWeight(Tensor):
    """The unpacked weight of a packed layer, whose ``data`` can be read only: nothing writes into a copy."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's Parameter does

    @property
    def data(self) -> Tensor:
        return self.detach().clone().as_subclass(_ReadOnly)

    @data.setter
    def data(self, value: Any) -> None:
        raise RuntimeError(_READ_ONLY)


class PackedWeightMixin(nn.Module):
    """Read-only ``weight`` from packed buffers, computed in float32, then cast to ``packed_dtype``."""

    packed_layout: PackedLayout
    packed_dtype: torch.dtype
    packed_compute: str
    packed_requires_grad: bool
    packed_fused: tuple[tuple[str, int], ...] = ()  # name and rank of adapters, see :mod:`.fused`
    packed_integers: Integers | None
    weight_codes: Tensor
    weight_scale: Tensor
    _dequantized: Tensor | None
    _buffers: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        # Whoever builds another layer of the class of this one, as peft does for convolutions, gets an ordinary layer.
        return cls.__mro__[2](*args, **options) if args or options else super().__new__(cls)

    @property
    def weight(self) -> Tensor:
        if self.packed_compute != "dequantized":
            value = self.dequantized_weight(lent=True)
        else:
            if self._dequantized is None or self._dequantized.device != self.weight_codes.device:
                self._dequantized = self.dequantized_weight()
            value = self._dequantized
        return value if torch.compiler.is_compiling() else value.as_subclass(PackedWeight)

    def integer_product(self, x: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """Output for inputs ``x``, computed with integers; None where the layer computes in floating point."""
        if self.packed_integers is None or self.packed_compute != "int8" or self.packed_fused:
            return None
        return integer_forward(self, x, bias)

    def integer_energy(self) -> Tensor:
        """Sums of squares (O, I) float32 of the weight over its taps, from the integers."""
        assert self.packed_integers is not None  # asked only after integer_product
        if torch.compiler.is_compiling():
            return integer_energy(self.weight_scale, self.packed_integers.number)
        return self.packed_integers.energy()

    def dequantized_weight(self, lent: bool = False) -> Tensor:
        """Weight of its original shape in ``packed_dtype``, with the adapters that are fused into it; ``lent``: for a
        short life (:func:`.buffers.lend`).
        """
        if not self.packed_fused:
            return unpack_rows(self._buffers, self.packed_layout, self.packed_dtype, lent)
        return with_fused(self, unpack_rows(self.packed_buffers(), self.packed_layout)).to(self.packed_dtype)

    def packed_buffers(self) -> dict[str, Tensor]:
        """The packed buffers by name."""
        return {name: self._buffers[name] for name in BUFFERS if name in self._buffers}

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all packed buffers."""
        digest = hashlib.sha256()
        for tensor in self.packed_buffers().values():
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        own = f"bits={self.packed_layout.bits}, compute={self.packed_compute}"
        return ", ".join(filter(None, [super().extra_repr(), own]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Casting a model casts what it computes with; codes and scales stay exact.
        exact = {name: self._buffers[name] for name in (*BUFFERS, *FUSED) if name in self._buffers}
        self._forget()
        probe = fn(torch.zeros((), dtype=self.packed_dtype, device=self.weight_scale.device))
        if probe.dtype.itemsize == 1:
            raise RuntimeError(
                f"a packed layer cannot be cast to {probe.dtype}: layerwise casting would destroy its scales, and its "
                "weights are smaller already. Leave it out; set_compute_(model, 'packed') saves memory instead."
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self.packed_dtype = probe.dtype
        for name, tensor in exact.items():
            if self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def _forget(self) -> None:
        self._dequantized = None
        if self.packed_integers is not None:
            self.packed_integers.forget()

    def __getstate__(self) -> dict[str, Any]:
        without = {"_buffers": self._buffers | {"_dequantized": None}, "packed_integers": None}
        return self.__dict__ | without

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own
        self._prepare_integers()

    def _prepare_integers(self) -> None:
        self.packed_integers = Integers(self) if self.packed_layout.activations else None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Dynamic classes have no importable name: deepcopy and pickle go through the original class.
        return _unpickle, (base_class(self),), self.__getstate__()


@functools.cache
def packed_class(base: type[nn.Module]) -> type[nn.Module]:
    """The packed subclass of a layer class."""
    own: dict[str, Any] = {"__module__": base.__module__}
    if computes_plainly(base):  # others ask for the product by themselves, or have none
        own["forward"] = _forward(base.forward)
    return type(f"Packed{base.__name__}", (PackedWeightMixin, base), own)


def _forward(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        found = self.integer_product(args[0], self.bias) if len(args) == 1 and not kwargs else None
        return original(self, *args, **kwargs) if found is None else found

    return forward


def base_class(module: nn.Module) -> type[nn.Module]:
    """The layer class that a packed module had before."""
    return type(module).__mro__[2]


def _unpickle(base: type[nn.Module]) -> nn.Module:
    cls = packed_class(base)  # type: ignore[arg-type]  # classes are hashable
    return cls.__new__(cls)


def pack_module_(
    module: Any, layout: PackedLayout, buffers: dict[str, Tensor], *, dtype: torch.dtype, compute: str
) -> None:
    """Replace ``module.weight`` by packed buffers.

    Args:
        module: Layer with a parameter ``weight`` of shape ``layout.shape``.
        layout: Storage layout.
        buffers: Tensors of the shapes and dtypes of ``layout.buffers``; on the meta device they are filled later.
        dtype: Floating dtype of the unpacked weight.
        compute: "packed" (unpack in every forward), "dequantized" (unpack once, on first use) or "int8" (compute with
            the codes).
    """
    module.packed_requires_grad = module._parameters.pop("weight").requires_grad
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor)
    module.packed_layout, module.packed_dtype, module.packed_compute = layout, dtype, compute
    module.register_buffer("_dequantized", None, persistent=False)  # a buffer, so that whoever counts memory counts it
    module.__class__ = packed_class(type(module))  # type: ignore[arg-type]  # classes are hashable
    module._prepare_integers()


def unpack_module_(module: Any) -> None:
    """Turn a packed layer into its original class with an ordinary parameter, trainable if the weight once was."""
    weight = nn.Parameter(module.dequantized_weight(), requires_grad=module.packed_requires_grad)
    for name in {*BUFFERS, *FUSED, "_dequantized"} & module._buffers.keys():
        delattr(module, name)
    for name in ("packed_layout", "packed_dtype", "packed_compute", "packed_requires_grad", "packed_integers"):
        del module.__dict__[name]
    module.__dict__.pop("packed_fused", None)
    module.__class__ = base_class(module)
    module.weight = weight


def packed_modules(model: nn.Module) -> dict[str, PackedWeightMixin]:
    """Packed layers of a model by module name; of a pipeline, behind the names of its networks."""
    if is_pipeline(model):
        found = {part: packed_modules(network) for part, network in all_networks(model).items()}
        return {f"{part}.{name}": module for part, modules in found.items() for name, module in modules.items()}
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedWeightMixin)}


def digests(model: nn.Module) -> dict[str, str]:
    """:meth:`PackedWeightMixin.digest` of every packed layer by module name; several layers at once, as hashing leaves
    the interpreter free.
    """
    modules = packed_modules(model)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return dict(zip(modules, pool.map(lambda module: module.digest(), modules.values())))


def packed_parameters(model: nn.Module, embeddings: bool = True) -> int:
    """Number of parameters that the packed weights of a model unpack to, without ``nn.Embedding`` tables if asked."""
    return sum(
        math.prod(module.packed_layout.shape)
        for module in packed_modules(model).values()
        if embeddings or not isinstance(module, nn.Embedding)
    )


def set_compute_(model: nn.Module, compute: str) -> None:
    """Choose how packed layers compute: "packed" keeps only packed weights in memory, "dequantized" unpacked ones too
    and is faster, "int8" computes with integers where layers have ``activations`` (others as "packed").

    Raises:
        ValueError: Unknown mode, the model has no packed layer, or none with activations for "int8".
    """
    if compute not in COMPUTE_MODES:
        raise ValueError(f"set_compute_: compute is {compute!r}; allowed are {', '.join(COMPUTE_MODES)}.")
    modules = packed_modules(model)
    if not modules:
        raise ValueError("set_compute_: the model has no packed layer; quantize it first.")
    if compute == "int8" and not any(module.packed_layout.activations for module in modules.values()):
        raise ValueError(
            "set_compute_: compute is 'int8', and no layer rounds its activations; quantize the model with "
            "activations='int8'."
        )
    for module in modules.values():
        module.packed_compute = compute
        module._forget()


@contextlib.contextmanager
def computing(model: nn.Module, compute: str | None) -> Iterator[None]:
    """:func:`set_compute_` within the context; afterwards every packed layer computes as it did before. Without packed
    layers, or for None, nothing.

    Layers that compute with integers go on with it: the others would give other numbers.
    """
    before = {module: module.packed_compute for module in packed_modules(model).values()}
    integers = {module for module, mode in before.items() if mode == "int8" and module.packed_layout.activations}
    changed = [module for module, mode in before.items() if compute not in (None, mode) and module not in integers]
    for module in changed:
        module.packed_compute, module._dequantized = compute or before[module], None
    try:
        yield
    finally:
        for module in changed:
            module.packed_compute, module._dequantized = before[module], None
