# SPDX-License-Identifier: Apache-2.0
"""Packed layers: a layer keeps its class and forward; its ``weight`` becomes a property over packed buffers.

``pack_module_`` swaps the class of a module for a dynamic subclass with the buffers ``weight_codes`` (uint8, see
:mod:`.packing`), ``weight_scale`` and, where they are needed, ``weight_offset``, ``weight_codebook``, ``weight_sources``,
``weight_up`` and ``weight_down``. Everything that reads ``self.weight`` (Conv, ConvTranspose, Linear, modulated convolutions) works
unchanged, and ``isinstance`` stays true.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ..components import all_networks, is_pipeline
from .chunks import float_dtype
from .fused import FUSED, with_fused
from .grid import QuantizedRows, add_low_rank_, fold_channels, to_values
from .integers import Integers, computes_plainly, integer_energy, integer_forward
from .layout import PackedLayout
from .packing import pack, unpack
from .rotation import unrotated


COMPUTE_MODES = ("packed", "dequantized", "int8")
INPUT_RANGE = ("input_scale", "input_zero_point")
BUFFERS = (
    *("weight_codes", "weight_scale", "weight_offset", "weight_codebook"),
    *("weight_sources", "weight_up", "weight_down", *INPUT_RANGE),
)
_LARGE = 2**20  # codes from which on errors are those of an eighth of the output channels
_CHUNK = 2**17  # weights that are unpacked at once on CPUs: their intermediate values fit a core's cache


def pack_rows(quantized: QuantizedRows, layout: PackedLayout) -> dict[str, Tensor]:
    """Buffers of a packed layer by name."""
    found = {
        "weight_codes": pack_codes(quantized.codes, layout.bits),
        "weight_scale": quantized.scale,
        "weight_offset": quantized.offset,
        "weight_codebook": None if quantized.codebook is None else quantized.codebook.half(),
        "weight_sources": quantized.sources,
        "weight_up": quantized.up,
        "weight_down": quantized.down,
        "input_scale": torch.ones(1),  # until it is calibrated
        "input_zero_point": torch.zeros(1, dtype=torch.int32),
    }
    return {name: found[name].contiguous() for name in layout.buffers}


def unpack_rows(buffers: dict[str, Tensor], layout: PackedLayout, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weight of ``layout.shape``, computed in float32, from the buffers of a packed layer.

    On CPUs a few output channels at a time, so that intermediate values stay in the cache and next to no memory is needed besides the result.
    """
    if buffers["weight_codes"].device.type != "cpu" or torch.compiler.is_compiling():
        values = _unpack_channels(buffers, layout, 0, layout.moved_shape[0]).view(layout.moved_shape).to(dtype)
        return values.transpose(0, 1).contiguous() if layout.axis else values
    weight = torch.empty(layout.shape, dtype=dtype)
    moved = weight.transpose(0, 1) if layout.axis else weight
    direct = dtype == torch.float32 and not (layout.axis or layout.splits or layout.rotation)
    for channels in channel_parts(layout):
        part = moved[channels]
        values = _unpack_channels(buffers, layout, channels.start, channels.stop, part if direct else None)
        if not direct:
            part.copy_(values.view(part.shape))
    return weight


def channel_parts(layout: PackedLayout, skipping: int = 1) -> Iterator[slice]:
    """Output channels, as many at a time as have about ``_CHUNK`` codes, or one of ``skipping`` of these; all of them where scales belong to several channels, but not to all."""
    outputs = layout.moved_shape[0]
    if layout.rows > 1 and layout.rows % outputs:
        yield slice(0, outputs)
        return
    step = max(1, _CHUNK * outputs // layout.num_codes)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        yield slice(start, start - (start - stop) // skipping)


def packing_error(buffers: dict[str, Tensor], layout: PackedLayout, weight: Tensor) -> tuple[float, float]:
    """Sum of squares of ``weight``, of ``layout.shape``, and of its difference to what the buffers unpack to.

    Of weights of 2^20 numbers and more, of an eighth of their output channels, evenly spread.
    """
    moved, signal, noise, memory = weight.transpose(0, 1) if layout.axis else weight, 0.0, 0.0, None
    for channels in channel_parts(layout, 8 if layout.num_codes >= _LARGE else 1):
        part = moved[channels]
        if memory is None:  # one for all parts: what is new to the process costs more than what is computed in it
            memory = [torch.empty(part.shape, dtype=float_dtype(part), device=part.device) for _ in range(2)]
        exact, values = (each[: len(part)] for each in memory)
        exact.copy_(part)
        direct = not layout.splits and exact.dtype == torch.float32
        found = _unpack_channels(buffers, layout, channels.start, channels.stop, values if direct else None)
        torch.sub(exact, found.view(exact.shape), out=values)
        signal, noise = (
            total + float(torch.dot(x.view(-1), x.view(-1))) for total, x in ((signal, exact), (noise, values))
        )
    return signal, noise


def _unpack_channels(
    buffers: dict[str, Tensor], layout: PackedLayout, start: int, stop: int, out: Tensor | None = None
) -> Tensor:
    """Output channels ``start`` to ``stop``, float32; written to ``out``, contiguous, if it is given."""
    length, bits = layout.num_codes // layout.moved_shape[0], layout.bits
    codes = unpack(buffers["weight_codes"], bits, layout.num_codes, start * length, stop * length)
    codebook, offset = buffers.get("weight_codebook"), buffers.get("weight_offset")
    if codebook is None:
        codes = codes.sub_(2 ** (bits - 1)).view(torch.int8)
    per_channel = layout.rows // layout.moved_shape[0]  # 0: one scale for all, or one for several channels
    rows = slice(start * per_channel, stop * per_channel) if per_channel else slice(None)
    scale = buffers["weight_scale"][rows]
    codes, out = codes.view(len(scale), -1), None if out is None else out.view(len(scale), -1)
    values = to_values(codes, scale, layout.level_offset, codebook, None if offset is None else offset[rows], out)
    if layout.splits:
        values = fold_channels(
            values.view(stop - start, layout.moved_shape[1] + layout.splits, -1), buffers["weight_sources"]
        )
    if layout.rotation:
        values = unrotated(values.view(stop - start, -1), layout.rotation)
    if layout.rank:
        add_low_rank_(values.view(stop - start, -1), buffers["weight_up"][start:stop], buffers["weight_down"])
    return values


_READ_ONLY = (
    "the weight of a packed layer is read-only: writing to it, for example by merging a LoRA by hand, or a DoRA, would be lost. "
    "Call hf_ganzip.dequantize_(model) first, or keep the adapter unmerged."
)
_WRITES = re.compile(
    r"__set\w*__|__i(add|sub|mul|div|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift)__|[a-z]\w*[^_]_"
)


class _ReadOnly(Tensor):
    """A copy of a packed weight that can be read, as loaders of adapters do; to operate on it in place raises."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if _WRITES.fullmatch(func.__name__) and args and isinstance(args[0], cls):
            raise RuntimeError(_READ_ONLY)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class PackedWeight(Tensor):
    """The unpacked weight of a packed layer: a tensor whose ``data`` can be read only, so that nothing writes into a copy."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self):
        return self.detach().clone().as_subclass(_ReadOnly)

    @data.setter
    def data(self, value):
        raise RuntimeError(_READ_ONLY)


def unpack_codes(buffers: dict[str, Tensor], layout: PackedLayout) -> Tensor:
    """Signed codes (num_codes,) int8."""
    return unpack(buffers["weight_codes"], layout.bits, layout.num_codes).sub_(2 ** (layout.bits - 1)).view(torch.int8)


class PackedWeightMixin:
    """Read-only ``weight`` from packed buffers, computed in float32, then cast to ``packed_dtype``."""

    packed_layout: PackedLayout
    packed_dtype: torch.dtype
    packed_compute: str
    packed_requires_grad: bool
    packed_fused: tuple[tuple[str, int], ...] = ()  # name and rank of adapters, see :mod:`.fused`
    packed_integers: Integers | None

    def __new__(cls, *args, **options):
        # Whoever builds another layer of the class of this one, as peft does for convolutions, gets an ordinary layer.
        return cls.__mro__[2](*args, **options) if args or options else super().__new__(cls)

    @property
    def weight(self) -> Tensor:
        if self.packed_compute != "dequantized":
            value = self.dequantized_weight()
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
        number = self.packed_integers.number
        return (
            integer_energy(self.weight_scale, number)
            if torch.compiler.is_compiling()
            else self.packed_integers.energy()
        )

    def dequantized_weight(self) -> Tensor:
        """Weight of its original shape in ``packed_dtype``, with the adapters that are fused into it."""
        if not self.packed_fused:
            return unpack_rows(self.packed_buffers(), self.packed_layout, self.packed_dtype)
        return with_fused(self, unpack_rows(self.packed_buffers(), self.packed_layout)).to(self.packed_dtype)

    def packed_buffers(self) -> dict[str, Tensor]:
        """The packed buffers by name."""
        return {name: self._buffers[name] for name in BUFFERS if name in self._buffers}

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all packed buffers."""
        digest = hashlib.sha256()
        for tensor in self.packed_buffers().values():
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        inherited = super().extra_repr()
        return ", ".join(
            filter(None, [inherited, f"bits={self.packed_layout.bits}", f"compute={self.packed_compute}"])
        )

    def _apply(self, fn, recurse=True):
        # Casting a model casts what it computes with; codes and scales stay exact.
        exact = {name: self._buffers[name] for name in (*BUFFERS, *FUSED) if name in self._buffers}
        self._forget()
        probe = fn(torch.zeros((), dtype=self.packed_dtype, device=self.weight_scale.device))
        if probe.dtype.itemsize == 1:
            raise RuntimeError(
                f"a packed layer cannot be cast to {probe.dtype}: layerwise casting would destroy its scales, and its "
                "weights are smaller already. Leave it out; set_compute_(model, 'packed') saves memory instead."
            )
        super()._apply(fn, recurse)
        self.packed_dtype = probe.dtype
        for name, tensor in exact.items():
            if self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def _forget(self) -> None:
        self._dequantized = None
        if self.packed_integers is not None:
            self.packed_integers.forget()

    def __getstate__(self) -> dict:
        without = {"_buffers": self._buffers | {"_dequantized": None}, "packed_integers": None}
        return self.__dict__ | without

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._prepare_integers()

    def _prepare_integers(self) -> None:
        self.packed_integers = Integers(self) if self.packed_layout.activations else None

    def __reduce_ex__(self, protocol):
        # Dynamic classes have no importable name: deepcopy and pickle go through the original class.
        return _unpickle, (base_class(self),), self.__getstate__()


@functools.cache
def packed_class(base: type[nn.Module]) -> type[nn.Module]:
    """The packed subclass of a layer class."""
    own = {"__module__": base.__module__}
    if computes_plainly(base):  # others ask for the product by themselves, or have none
        own["forward"] = _forward(base.forward)
    return type(f"Packed{base.__name__}", (PackedWeightMixin, base), own)


def _forward(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def forward(self, *args, **kwargs) -> Tensor:
        found = self.integer_product(args[0], self.bias) if len(args) == 1 and not kwargs else None
        return original(self, *args, **kwargs) if found is None else found

    return forward


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
        compute: "packed" (unpack in every forward), "dequantized" (unpack once, on first use) or "int8" (compute with the codes).
    """
    module.packed_requires_grad = module._parameters.pop("weight").requires_grad
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor)
    module.packed_layout, module.packed_dtype, module.packed_compute = layout, dtype, compute
    module.register_buffer("_dequantized", None, persistent=False)  # a buffer, so that whoever counts memory counts it
    module.__class__ = packed_class(type(module))
    module._prepare_integers()


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Signed codes in ``-2**(bits-1) .. 2**(bits-1) - 1`` (any shape) to packed bytes."""
    return pack(codes.contiguous().view(torch.uint8) + 2 ** (bits - 1), bits)  # modulo 256


def unpack_module_(module: nn.Module) -> None:
    """Turn a packed layer back into its original class with an ordinary parameter, trainable if the weight was before it was packed."""
    weight = nn.Parameter(module.dequantized_weight(), requires_grad=module.packed_requires_grad)
    for name in {*BUFFERS, *FUSED, "_dequantized"} & module._buffers.keys():
        delattr(module, name)
    for name in ("packed_layout", "packed_dtype", "packed_compute", "packed_requires_grad", "packed_integers"):
        del module.__dict__[name]
    module.__dict__.pop("packed_fused", None)
    module.__class__ = base_class(module)
    module.weight = weight


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Packed layers of a model by module name; of a pipeline, behind the names of its networks."""
    if is_pipeline(model):
        found = {part: packed_modules(network) for part, network in all_networks(model).items()}
        return {f"{part}.{name}": module for part, modules in found.items() for name, module in modules.items()}
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedWeightMixin)}


def digests(model: nn.Module) -> dict[str, str]:
    """:meth:`PackedWeightMixin.digest` of every packed layer by module name; several layers at once, as hashing leaves the interpreter free."""
    modules = packed_modules(model)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return dict(zip(modules, pool.map(lambda module: module.digest(), modules.values())))


def packed_parameters(model: nn.Module, embeddings: bool = True) -> int:
    """Number of parameters that the packed weights of a model unpack to; without those of ``nn.Embedding`` tables if asked."""
    return sum(
        math.prod(module.packed_layout.shape)
        for module in packed_modules(model).values()
        if embeddings or not isinstance(module, nn.Embedding)
    )


def set_compute_(model: nn.Module, compute: str) -> None:
    """Choose how packed layers compute: "packed" keeps only packed weights in memory, "dequantized" unpacked ones too and is faster, "int8" computes with
    integers where layers have ``activations`` (others as "packed").

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
            "set_compute_: compute is 'int8', and no layer rounds its activations; quantize the model with activations='int8'."
        )
    for module in modules.values():
        module.packed_compute = compute
        module._forget()


@contextlib.contextmanager
def computing(model: nn.Module, compute: str | None) -> Iterator[None]:
    """:func:`set_compute_` within the context; afterwards every packed layer computes as it did before. Without packed layers, or for None, nothing.

    Layers that compute with integers go on with it: the others would give other numbers.
    """
    before = {module: module.packed_compute for module in packed_modules(model).values()}
    integers = {module for module, mode in before.items() if mode == "int8" and module.packed_layout.activations}
    changed = [module for module, mode in before.items() if compute not in (None, mode) and module not in integers]
    for module in changed:
        module.packed_compute, module._dequantized = compute, None
    try:
        yield
    finally:
        for module in changed:
            module.packed_compute, module._dequantized = before[module], None
