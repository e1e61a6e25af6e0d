# SPDX-License-Identifier: Apache-2.0
"""The quantization config of ``from_pretrained`` and of saved folders, for diffusers and transformers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from ..core.registry import suggestion
from ..quantization.config import QuantizeConfig, stored_method
from .packed_model import GanzipMethod
from .restoring import FORMAT_VERSION, check_format


QUANT_METHODS = ("hf_ganzip", "ganzip")  # in config.json: what is written, and what is read besides


class GanzipConfig(QuantizationConfigMixin):
    """Quantization for ``from_pretrained(..., quantization_config=)``, and what a saved folder says of it.

    Args:
        method: Name in ``METHODS`` ("linear", "gptq") or a method object.
        bits: 2 to 8; None: not quantized (the config of a model that was only pruned).
        granularity: "tensor", "channel" or "group".
        method_options: Options of a method given by name.
        skip: Patterns of module names to leave in full precision.
        modules_to_not_convert: Names or parts of names of modules to leave alone, as other backends have it.
        skip_last_block: Leave the last residual block and the output layer in full precision.
        overrides: Glob pattern -> changed options.
        group_size: Weights per scale, for "group".
        symmetric: False gives every scale an offset.
        scale_dtype: "float32" or "float16".
        embeddings: Also quantize embedding tables.
        headroom: Share of bytes on top of ``bits`` for small and sensitive layers.
        svd_rank: Rank of a part of every weight that is kept in 16 bits; 0 for none.
        hadamard: Rotate rows of weights before they are rounded; None: as in :class:`.QuantizeConfig`.
        preset: "best" or "paper": what options that are not given are.
        compute: "packed", "dequantized" or "int8".
        activations: None, or "int8": inputs of layers are rounded to 8 bits, too.
        activation_range: "mse", "percentile", "minmax" or "dynamic".
        activation_inputs: What ranges are calibrated with instead of the family's own inputs.
        bias_correction: Whether biases take the mean of what rounding adds to the outputs of layers.
        layers: Written by the library: layout and digest of every packed weight.
        structure: Written by the library: how a pruned model differs from what its class's own config builds.
        record: Written by the library: the steps that led to the model.
        format_version: Written by the library.

    The options are those of :class:`~hf_ganzip.QuantizeConfig`, where they are explained.

    Raises:
        ValueError: An option is unknown or out of range, or the folder was written by a newer format.

    Example:
        >>> GanzipConfig(method="aciq", bits=3).quantize_config.bits
        3
    """

    pending = False  # options for a folder that is not quantized yet, as merge_configs makes them

    def __init__(
        self,
        method: Any = None,
        bits: int | None = 4,
        granularity: str | None = None,
        method_options: Mapping[str, Any] | None = None,
        skip: tuple[str, ...] = (),
        skip_last_block: bool | None = None,
        overrides: dict[str, Any] | None = None,
        compute: str | None = None,
        layers: dict[str, Any] | None = None,
        record: list[Any] | None = None,
        format_version: int = FORMAT_VERSION,
        group_size: int = 128,
        symmetric: bool = True,
        scale_dtype: str | None = None,
        embeddings: bool = False,
        structure: dict[str, Any] | None = None,
        headroom: float | None = None,
        preset: str | None = None,
        modules_to_not_convert: Sequence[str] | str | None = None,
        svd_rank: int = 0,
        hadamard: bool | None = None,
        activations: str | None = None,
        activation_range: str = "mse",
        activation_inputs: Callable[..., Any] | None = None,
        bias_correction: bool = False,
        **kwargs: Any,
    ):
        given = dict(locals())  # the arguments by name
        kwargs.pop("quant_method", None)
        for name in sorted(kwargs):
            near = suggestion(inspect.signature(GanzipConfig).parameters, name)
            raise ValueError(f"GanzipConfig has no option {name}.{near}")
        check_format(format_version)
        self.quant_method = GanzipMethod.GANZIP
        if bits is None and structure is None:
            raise ValueError("GanzipConfig: bits is None; allowed are 2 to 8.")
        self.quantize_config = None
        if bits is not None:
            options = {name: given[name] for name in inspect.signature(QuantizeConfig).parameters if name in given}
            options |= {"method_options": method_options or {}, "overrides": overrides or {}}
            if layers is not None:
                method, method_options = stored_method(method, options["method_options"])
                overrides = {pattern: _stored_override(changes) for pattern, changes in options["overrides"].items()}
                options |= {"method": method, "method_options": method_options, "overrides": overrides}
                options["headroom"] = headroom or 0.0  # folders that are older than the option
            self.quantize_config = QuantizeConfig(**options)
        self.layers = layers
        self.structure = structure
        self.record = list(record or [])
        self.format_version = format_version

    @classmethod
    def of(cls, config: QuantizeConfig) -> GanzipConfig:
        """The config of a model that was quantized in memory."""
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "requantize"})

    @property
    def compute(self) -> str | None:
        """Of packed layers; None for a model that was only pruned."""
        return None if self.quantize_config is None else self.quantize_config.compute

    def unused(self) -> GanzipConfig:
        """A copy without what loading writes into it, so that one config serves several models."""
        copied = copy.copy(self)
        copied.layers, copied.record, copied.pending = None, [], False
        return copied

    def to_dict(self) -> dict[str, Any]:
        """JSON types only, as written to ``config.json``."""
        values: dict[str, Any] = {"quant_method": self.quant_method.value, "format_version": self.format_version}
        if self.quantize_config is None:
            values["bits"] = None
        else:
            values |= self.quantize_config.to_dict() | {"layers": self.layers}
        if self.structure is not None:
            values["structure"] = self.structure
        return values | {"record": self.record}

    def to_diff_dict(self) -> dict[str, Any]:
        """For ``repr``: :meth:`to_dict` without the long tables."""
        return {name: value for name, value in self.to_dict().items() if name not in ("layers", "structure")}


def as_ganzip(config: Any) -> GanzipConfig | None:
    """What ``from_pretrained`` is given or finds, if it is ours: a config, or a dict of ``config.json``."""
    if isinstance(config, QuantizeConfig):
        return GanzipConfig.of(config)
    if isinstance(config, dict) and config.get("quant_method") in QUANT_METHODS:
        return GanzipConfig.from_dict(config)
    return config if isinstance(config, GanzipConfig) else None


def merge_configs(saved: Any, asked: Any) -> GanzipConfig:
    """The config of a folder and the one given to ``from_pretrained``, one at least ours: a pruned model is quantized.

    Raises:
        ValueError: The folder is quantized already, or one of them is another library's.
    """
    folder, options = as_ganzip(saved), as_ganzip(asked)
    if folder is None or folder.quantize_config is not None:
        has: Any = saved if folder is None else folder.quantize_config
        how = f"{has.settings().method_name}, {has.bits} bits" if folder is not None else _method_of(saved)
        raise ValueError(
            f"from_pretrained: the model is quantized already ({how}); load it without quantization_config="
            + (", then quantize_(model, ..., requantize=True) quantizes it again." if folder is not None else ".")
        )
    if options is None:
        raise ValueError(
            f"from_pretrained: the model was pruned by hf_ganzip, and quantization_config= is of {_method_of(asked)}; "
            "allowed is GanzipConfig."
        )
    merged = options.unused()
    merged.structure, merged.record, merged.pending = folder.structure, folder.record, True
    return merged


def merge_strictly_(auto_quantizer: Any) -> None:
    """Let the class of a library that ignores the argument use :func:`merge_configs` where a config is ours."""
    merge = auto_quantizer.merge_quantization_configs
    if hasattr(merge, "of_hf_ganzip"):
        return

    @functools.wraps(merge)
    def merge_ours(quantization_config: Any, quantization_config_from_args: Any) -> Any:
        asked = quantization_config_from_args
        if asked is None or as_ganzip(quantization_config) is None and as_ganzip(asked) is None:
            return merge(quantization_config, asked)
        return merge_configs(quantization_config, asked)

    merge_ours.of_hf_ganzip = True  # type: ignore[attr-defined]  # a mark on a function
    auto_quantizer.merge_quantization_configs = staticmethod(merge_ours)


def _method_of(config: Any) -> str:
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method))


def _stored_override(changes: dict[str, Any]) -> dict[str, Any]:
    if "method" not in changes:
        return changes
    method, options = stored_method(changes["method"], changes.get("method_options", {}))
    kept = {name: value for name, value in changes.items() if name != "method_options"}
    return kept | {"method": method} | ({"method_options": options} if options else {})
