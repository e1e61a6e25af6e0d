# SPDX-License-Identifier: Apache-2.0
"""Options of quantization."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import torch

from ..core.registry import lookup, named_options
from .layout import SCALE_DTYPES
from .methods import METHODS
from .methods.base import row_method, with_integer_levels
from .packed import COMPUTE_MODES


GRANULARITIES = ("tensor", "channel", "group")
PRESETS: dict[str, dict[str, Any]] = {
    name: dict(zip(("method", "granularity", "scale_dtype", "skip_last_block", "headroom"), values))
    for name, values in {
        "best": ("auto", "channel", "float16", False, 0.1),
        "paper": ("aciq", "tensor", "float32", True, 0.0),
    }.items()
}
ASKED_ONCE = ("requantize", "activation_inputs")  # what is not written into a model
ACTIVATION_RANGES = ("mse", "percentile", "minmax", "dynamic")


@dataclass(frozen=True)
class StoredMethod:
    """A method of a saved model that this library does not have, or not with these options: what is written again.

    Unpacking needs no method.
    """

    name: str
    options: Mapping[str, Any]

    def __call__(self, rows: torch.Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> Any:
        raise ValueError(
            f"the quantization method {self.name!r} is known by name only, from a saved model; give the method object."
        )


@dataclass(frozen=True)
class LayerSettings:
    """How one weight is quantized. ``method`` is an instance from ``METHODS`` or any object with its call signature."""

    method: Any
    bits: int
    granularity: str = "tensor"
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str = "float32"
    svd_rank: int = 0
    hadamard: bool | None = False  # None: the plan decides
    activations: str | None = None  # "static" or "dynamic"

    @property
    def method_name(self) -> str:
        """Registry name of the method, or the name of its class."""
        if isinstance(self.method, StoredMethod):
            return self.method.name
        names = [name for name, cls in METHODS.items() if isinstance(self.method, cls)]
        return names[0] if names else getattr(self.method, "__name__", type(self.method).__name__)


_OVERRIDES = ("method_options", *(f.name for f in dataclasses.fields(LayerSettings)))


@named_options
@dataclass(frozen=True)
class QuantizeConfig:
    """Options of :func:`~hf_ganzip.quantize_`; ``from_pretrained(..., quantization_config=)`` takes them, too.

    Args:
        method: Name in ``METHODS`` or a method object; None: that of the preset.
        bits: 2 to 8; some layers get more, see ``headroom``.
        granularity: One scale per "tensor" (the paper's), per output "channel", or per "group" of ``group_size``
            weights of one output channel; None: that of the preset.
        group_size: Weights per scale; only for "group". Where it does not divide the weights of an output channel, the
            largest size of at least 16 below it that does is taken, or one scale per channel; the report says so.
        symmetric: False: every scale has an offset besides, so that rows far from zero lose less.
        scale_dtype: "float32" or "float16" (float32 for a tensor with a scale out of float16's range, also the tiny
            one that "codebook" and "mse_clip" give a row of zeros), of scales and offsets; None: that of the preset.
        method_options: Options of a method given by name, for example ``{"constants": "published"}``.
        skip: Glob patterns of module names to leave alone. A pattern between dots,
            ".attn.", stands for the modules of that name, wherever they are, and all below them.
        skip_last_block: Leave the last residual block and the output layer alone (the paper's rule); None: that of the
            preset.
        embeddings: Also quantize ``nn.Embedding`` tables.
        overrides: Glob pattern -> changed ``method``, ``method_options``, ``bits``, ``granularity``, ``group_size``,
            ``symmetric``, ``scale_dtype``, ``svd_rank``, ``hadamard`` or ``activations``; the first match counts. A
            match also brings back a layer that ``skip_last_block`` would leave alone; ``bits=None`` skips it.
        compute: "packed" (unpack in every forward: no more memory than packed weights and one unpacked one) or
            "dequantized" (unpack once, on first use, and keep both: faster), or "int8" (compute with the integers that
            are stored, of layers with ``activations``; others as "packed"); None: "int8" with ``activations``, else
            "packed".
        activations: "int8": layers also round what they are given to 8 bits, so that they can compute in integers
            (``compute="int8"``); "auto" is then ``mse_clip`` at all bits, whose levels are integers. None: activations
            stay in floating point.
        activation_range: How the range of a layer's inputs is found: "mse" (the least squared error), "percentile"
            (without the outermost 0.01 %) or "minmax" of the family's own latents or trajectories, or "dynamic"
            (of every batch anew: nothing is run).
        activation_inputs: Function (model, batch_size, seed) -> iterator of functions model -> output, to run instead
            of the family's own.
        bias_correction: Add to biases the mean of what rounding of weights and activations takes from the outputs of
            their layers, on the family's own latents or trajectories, or on ``activation_inputs``: images nearer to
            the original's, not a better distribution.
        requantize: Accept a model that is already quantized: its packed weights are unpacked and quantized again.
        headroom: Share of bytes on top of ``bits``, 0 to 1, for layers that are small or known to be sensitive: they
            get up to 8 bits, or stay in full precision where that costs next to nothing (:mod:`.spread`); None: that
            of the preset.
        svd_rank: Rank of a part of every weight that is kept in 16 bits beside its codes, singular values first; 0:
            none. Layers that it would cost more than a bit per weight have none, and the report says so.
        hadamard: Rotate rows of weights by signs and Hadamard matrices of up to 32 before they are rounded, and back
            when they are unpacked. Takes no bytes. None: where images gained by it: denoisers with ``bits`` 3
            by "auto", other models with up to 4 by "latent_distill".
        preset: What options that are None are: "best", the best that was found without calibration ("auto", a float16
            scale per output channel, a tenth of the bytes more for small and sensitive layers), or "paper" (C+Q with
            one float32 scale per tensor, the last block in full precision, all layers in equal bits); None: "paper"
            for the paper's methods ("linear", "monte_carlo", "outlier_splitting", "aciq"), "best" for all others.
        modules_to_not_convert: More of ``skip`` under the name and with the meaning that other backends have: names or
            parts of names of modules ("conv_in", "mid_block", "attn.to_q"), which ``skip`` has between dots.

    Raises:
        TypeError: An unknown option; the nearest is named.
        ValueError: An unknown name or a value out of range.
    """

    quant_method: ClassVar[str] = "hf_ganzip"  # by which diffusers and transformers find the quantizer

    method: Any = None
    bits: int = 4
    granularity: str = None  # type: ignore[assignment]  # of the preset
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str = None  # type: ignore[assignment]
    method_options: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    skip_last_block: bool = None  # type: ignore[assignment]
    embeddings: bool = False
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compute: str = None  # type: ignore[assignment]
    activations: str | None = None
    activation_range: str = "mse"
    activation_inputs: Callable[..., Any] | None = None
    requantize: bool = False
    headroom: float = None  # type: ignore[assignment]
    svd_rank: int = 0
    hadamard: bool | None = None
    bias_correction: bool = False
    preset: InitVar[str | None] = None
    modules_to_not_convert: InitVar[Sequence[str] | str | None] = None

    def __post_init__(self, preset: str | None, modules_to_not_convert: Sequence[str] | str | None) -> None:
        self._fill(preset)
        if not isinstance(self.headroom, (int, float)) or not 0 <= self.headroom <= 1:
            raise ValueError(f"headroom is {self.headroom!r}; allowed are numbers from 0 to 1.")
        if isinstance(self.skip, str):
            raise ValueError(
                f"skip is the string {self.skip!r}; it takes a list of patterns, for example [{self.skip!r}]."
            )
        modules = modules_to_not_convert or ()
        modules = [modules] if isinstance(modules, str) else modules
        object.__setattr__(self, "skip", (*self.skip, *(f".{name.strip('.')}." for name in modules)))
        if self.compute is None:
            object.__setattr__(self, "compute", "int8" if self.activations else "packed")
        if self.compute == "int8" and not self.activations:
            raise ValueError("compute is 'int8' with activations in floating point; give activations='int8', too.")
        if self.compute not in COMPUTE_MODES:
            raise ValueError(f"compute is {self.compute!r}; allowed are {', '.join(COMPUTE_MODES)}.")
        if self.activation_range not in ACTIVATION_RANGES:
            raise ValueError(
                f"activation_range is {self.activation_range!r}; allowed are {', '.join(ACTIVATION_RANGES)}."
            )
        self.settings()
        for pattern, changes in self.overrides.items():
            unknown = sorted(set(changes) - set(_OVERRIDES))
            if unknown:
                raise ValueError(f"overrides[{pattern!r}] has {unknown}; allowed are {', '.join(_OVERRIDES)}.")
            self.settings(changes)

    def _fill(self, preset: str | None) -> None:
        """Options that are None, from the preset; the others are remembered as given."""
        object.__setattr__(self, "_preset", preset)
        method = METHODS.get(self.method) if isinstance(self.method, str) else self.method
        values = lookup(PRESETS, getattr(method, "preset", "best") if preset is None else preset, "preset")
        object.__setattr__(self, "_chosen", frozenset(name for name in values if getattr(self, name) is not None))
        for name in values.keys() - self._chosen:  # type: ignore[attr-defined]  # set above
            object.__setattr__(self, name, values[name])

    @classmethod
    def of(cls, config: Any = None, **options: Any) -> QuantizeConfig:
        """What users give for a config: this or a :class:`~hf_ganzip.GanzipConfig`, a method, options.

        Raises:
            TypeError: Something else, or an unknown option.
            ValueError: As for the class.

        Example:
            >>> QuantizeConfig.of("linear", bits=3) == QuantizeConfig.of(QuantizeConfig(bits=3), method="linear")
            True
        """
        config = getattr(config, "quantize_config", config)  # of a GanzipConfig
        if config is None:
            return cls(**options)
        if isinstance(config, cls):
            filled = PRESETS["best"].keys() - config._chosen  # type: ignore[attr-defined]  # by _fill
            names = [field.name for field in dataclasses.fields(cls)]
            given = {name: getattr(config, name) for name in names if name not in filled}
            if "method" in options:
                given["method_options"] = {}
            if options.get("activations", config.activations) != config.activations:
                del given["compute"]
            return cls(**given | {"preset": config._preset} | options)  # type: ignore[attr-defined]
        if isinstance(config, str) or callable(config):
            return cls(config, **options)
        raise TypeError(
            f"config is {config!r}; allowed are a QuantizeConfig or GanzipConfig, the name of a method, and options "
            "such as bits=4."
        )

    def settings(self, changes: Mapping[str, Any] | None = None) -> LayerSettings | None:
        """Settings of a layer with ``changes`` applied; None if they set ``bits`` to None."""
        values = {name: getattr(self, name) for name in _OVERRIDES} | dict(changes or {})
        if changes and "method" in changes and "method_options" not in changes:
            values["method_options"] = {}
        if changes and values["bits"] is None:
            return None
        for name, fits, allowed in (
            ("bits", lambda value: _is_integer(value, 2, 8), "integers from 2 to 8"),
            ("granularity", GRANULARITIES.__contains__, ", ".join(GRANULARITIES)),
            ("scale_dtype", SCALE_DTYPES.__contains__, ", ".join(SCALE_DTYPES)),
            ("group_size", lambda value: _is_integer(value, 2), "integers from 2"),
            ("svd_rank", lambda value: _is_integer(value, 0), "integers from 0, which is none"),
            ("activations", (None, "int8").__contains__, "None and 'int8'"),
            ("hadamard", (None, False, True).__contains__, "None, False and True"),
        ):
            if not fits(values[name]):
                raise ValueError(f"{name} is {values[name]!r}; allowed are {allowed}.")
        method = values["method"] = _make_method(values["method"], values.pop("method_options"))
        grouped, values["symmetric"] = values["granularity"] == "group", bool(values["symmetric"])
        if values["activations"]:
            method = values["method"] = with_integer_levels(method)
            why = _not_integers(method, grouped, values["symmetric"])
            why = why or ("svd_rank" if values["svd_rank"] else "hadamard=True" if values["hadamard"] else None)
            if why:
                raise ValueError(
                    f"activations is 'int8' with {why}, which are no integers times a scale per output channel; give "
                    "method 'mse_clip', 'linear', 'aciq' or 'gptq', granularity 'channel' or 'tensor' and "
                    "symmetric=True, or activations=None (in overrides, for some layers)."
                )
            values["hadamard"] = False
            values["activations"] = "dynamic" if self.activation_range == "dynamic" else "static"
        if hasattr(method, "quantize_channels") and (grouped or not values["symmetric"]):
            raise ValueError(
                "outlier_splitting takes granularity 'tensor' or 'channel' and symmetric=True: it has no groups and "
                "no offsets."
            )
        return LayerSettings(**values)

    def to_dict(self) -> dict[str, Any]:
        """Options of the result as JSON types, not of the process; a method object becomes its name and options.

        Those of activations and biases are left out where nothing is done to them, so that versions which do not know
        them read the folder.
        """
        base: Any = self.settings()  # a LayerSettings: nothing is overridden
        left_out = ASKED_ONCE if self.activations else (*ASKED_ONCE, "activations", "activation_range")
        left_out = left_out if self.bias_correction else (*left_out, "bias_correction")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        values |= {"method": base.method_name, "method_options": _method_options(base.method), "skip": list(self.skip)}
        values["overrides"] = {pattern: _plain_override(self, changes) for pattern, changes in self.overrides.items()}
        return values


def _plain_override(config: QuantizeConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(changes)
    if "method" in plain and not isinstance(plain["method"], str):
        settings: Any = config.settings(changes)
        plain |= {"method": settings.method_name, "method_options": _method_options(settings.method)}
    return plain


def stored_method(method: Any, options: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Method and options as a saved model names them; a :class:`StoredMethod` if this library cannot build them."""
    try:
        _make_method(method, options)
    except (TypeError, ValueError):
        return StoredMethod(method, dict(options)), {}
    return method, options


def _is_integer(value: Any, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _not_integers(method: Any, grouped: bool, symmetric: bool) -> str | None:
    """Why weights of these settings are no integers times a scale per output channel, if it is known beforehand."""
    rows = row_method(method)
    uneven = next((name for name in ("codebook", "outlier_splitting") if isinstance(rows, METHODS[name])), None)
    if uneven:
        return f"method {uneven!r}"
    return "granularity 'group'" if grouped else None if symmetric else "symmetric=False"


def _make_method(method: Any, options: Mapping[str, Any]) -> Any:
    found = lookup(METHODS, method, "quantization method")
    if not isinstance(method, str):
        if options:
            raise ValueError("method_options belong to a method given by name; set them in the method object instead.")
        return found
    allowed = [f.name for f in dataclasses.fields(found)]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"method {method!r} has no option {', '.join(unknown)}; allowed are {', '.join(allowed) or 'none'}."
        )
    return found(**options)


def _method_options(method: Any) -> dict[str, Any]:
    """Options as JSON types, without those that do not change the result."""
    if isinstance(method, StoredMethod):
        return dict(method.options)
    if not dataclasses.is_dataclass(method):
        return {}
    fields = [f.name for f in dataclasses.fields(method) if f.metadata.get("recorded", True)]
    return {name: _plain_option(getattr(method, name)) for name in fields}


def _plain_option(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", None) or repr(value)
