# SPDX-License-Identifier: Apache-2.0
"""Quantize the weights of a model in place: plan every layer, report every problem, then change the model."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..families import family_of
from ..record import LayerReport, QuantizationReport
from .config import LayerSettings, QuantizeConfig
from .packed import (
    PackedLayout,
    PackedWeightMixin,
    base_class,
    pack_codes,
    pack_module_,
    packed_modules,
    unpack_module_,
)


QUANTIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class QuantizationPlan:
    """Which modules are quantized how, and why the others are not; both by module name."""

    settings: dict[str, LayerSettings]
    skipped: dict[str, str]


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes and scales of one weight before they are put into its module."""

    layout: PackedLayout
    codes: Tensor  # packed, uint8
    scale: Tensor  # float32, layout.scale_shape
    sqnr_db: float | None


def quantize_(model: nn.Module, config: QuantizeConfig | None = None) -> QuantizationReport:
    """Quantize the weights of a model in place.

    Weights of linear and convolution layers, also transposed and modulated ones, are replaced by packed codes and
    scales; biases, norms, noise and constants stay. diffusers models can then be saved with ``save_pretrained`` and
    restored with a plain ``from_pretrained``.

    Args:
        model: Any module; its weights are frozen afterwards.
        config: Options; None means C+Q at 4 bits.

    Returns:
        Report with every weight: bits, error, bytes before and after, or why it was skipped.

    Raises:
        ValueError: Nothing to quantize, a pattern that matches no layer, non-finite weights, or an already quantized
            model. All problems are reported at once, and the model is unchanged.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> report = quantize_(model, QuantizeConfig(method="linear", bits=4))
        >>> [layer.bits for layer in report.layers], model[0].weight.unique().numel() <= 15
        ([4, 4], True)
    """
    config = config or QuantizeConfig()
    plan = plan_quantization(model, config)
    modules = dict(model.named_modules())
    broken = [name for name in plan.settings if not torch.isfinite(modules[name].weight).all()]
    if broken:
        raise ValueError(f"quantize_: weights with NaN or infinity: {', '.join(broken)}; nothing was changed.")
    quantized = {name: quantize_weight(modules[name], settings) for name, settings in plan.settings.items()}
    for name, weight in quantized.items():
        module = modules[name]
        pack_module_(
            module, weight.layout, weight.codes, weight.scale, dtype=module.weight.dtype, compute=config.compute
        )
    model.requires_grad_(False)
    _attach(model, config)
    return quantization_report(model, plan, {name: weight.sqnr_db for name, weight in quantized.items()})


def dequantize_(model: nn.Module) -> None:
    """Turn packed layers back into ordinary ones, with the weights they computed with; saves as an ordinary folder.

    Raises:
        ValueError: The model has no packed layer.
    """
    modules = packed_modules(model)
    if not modules:
        raise ValueError("dequantize_: the model has no packed layer.")
    for module in modules.values():
        unpack_module_(module)
    if hasattr(model, "hf_quantizer"):
        from ..integration import detach

        detach(model)


def plan_quantization(model: nn.Module, config: QuantizeConfig) -> QuantizationPlan:
    """Decide for every weight whether and how it is quantized, changing nothing.

    Raises:
        ValueError: As in :func:`quantize_`, except for non-finite weights.
    """
    weights = weighted_modules(model)
    family = family_of(model)
    last_block = family.last_block(model) if family and config.skip_last_block else ()
    problems = [
        f"{kind} {pattern!r} matches no layer"
        for kind, patterns in (("skip", config.skip), ("overrides", config.overrides))
        for pattern in patterns
        if not any(_matches(name, pattern) for name in weights)
    ]
    already = packed_modules(model)
    if already:
        problems.append(
            f"{len(already)} layers are already quantized, the first is {next(iter(already))!r}; dequantize_ first"
        )
    settings, skipped = {}, {}
    for name, module in weights.items():
        decision = _decide(name, module, config, last_block)
        if isinstance(decision, str):
            skipped[name] = decision
        else:
            settings[name] = decision
    if not settings and not already:
        problems.append(
            f"there is nothing to quantize in {type(model).__name__} ({len(weights)} weights, all skipped)"
        )
    if problems:
        raise ValueError(f"quantize_: {'; '.join(problems)}; nothing was changed. Layers: {_some(list(weights))}.")
    return QuantizationPlan(settings, skipped)


def weighted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that own a parameter ``weight`` (or a packed one), in model order, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module._parameters.get("weight"), Tensor)
        or isinstance(module, PackedWeightMixin)
        or _is_parametrized(module)
    }


def quantize_weight(module: nn.Module, settings: LayerSettings, weight: Tensor | None = None) -> QuantizedWeight:
    """Quantize one weight; ``module`` is not changed. ``weight`` replaces ``module.weight`` where that is not loaded yet."""
    weight = (module.weight if weight is None else weight).detach()
    values = weight if weight.dtype == torch.float64 else weight.float()
    axis = 1 if isinstance(module, _TRANSPOSED) else 0
    if settings.granularity == "tensor":
        rows, scale_shape = values.reshape(1, -1), (1,) * values.ndim
    else:
        rows = values.movedim(axis, 0).flatten(1)
        scale_shape = tuple(size if i == axis else 1 for i, size in enumerate(values.shape))
    codes, scale = settings.method(rows, settings.bits)
    if not torch.isfinite(scale).all():
        raise ValueError(
            f"quantize_: {settings.method_name} gave a scale that is not finite; the weights exceed float32."
        )
    sqnr = _sqnr(rows, codes.to(rows.dtype) * scale.to(rows.dtype))
    if settings.granularity == "channel":
        moved = values.movedim(axis, 0).shape
        codes = codes.view(moved).movedim(0, axis)
    layout = PackedLayout(settings.bits, tuple(values.shape), scale_shape)
    return QuantizedWeight(layout, pack_codes(codes.contiguous(), settings.bits), scale.reshape(scale_shape), sqnr)


def quantization_report(
    model: nn.Module, plan: QuantizationPlan, sqnr_db: dict[str, float | None]
) -> QuantizationReport:
    """Report on a model that was quantized as planned; ``sqnr_db`` by module name."""
    layers, counted = [], 0
    for name, module in weighted_modules(model).items():
        entry = {"name": f"{name}.weight", "kind": type(module).__name__}
        if name in plan.settings:
            settings, layout = plan.settings[name], module.packed_layout
            counted += layout.packed_bytes
            entry |= {"kind": base_class(module).__name__, "shape": layout.shape, "bytes_after": layout.packed_bytes}
            entry |= {"bytes_before": layout.numel * module.packed_dtype.itemsize, "bits": settings.bits}
            entry |= {"method": settings.method_name, "sqnr_db": sqnr_db[name]}
        else:
            size = module.weight.nbytes
            counted += size
            entry |= {"shape": tuple(module.weight.shape), "bytes_before": size, "bytes_after": size}
            entry |= {"skipped": plan.skipped[name]}
        layers.append(LayerReport(**entry))
    total = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return QuantizationReport(tuple(layers), other_bytes=total - counted)


def _decide(name: str, module: nn.Module, config: QuantizeConfig, last_block: tuple[str, ...]) -> LayerSettings | str:
    if _is_parametrized(module):
        return "parametrized weight (fold the parametrization, such as spectral norm, into it first)"
    if module.weight.ndim < 2:
        return "one-dimensional weight (norm)"
    if not isinstance(module, QUANTIZABLE) and not getattr(type(module), "ganzip_quantizable", False):
        return f"{type(module).__name__} is not quantized"
    if not module.weight.numel():
        return "empty weight"
    pattern = next((pattern for pattern in config.skip if _matches(name, pattern)), None)
    if pattern is not None:
        return f"skip pattern {pattern!r}"
    pattern = next((pattern for pattern in config.overrides if _matches(name, pattern)), None)
    if pattern is not None:
        return config.settings(config.overrides[pattern]) or f"overrides[{pattern!r}] sets bits to None"
    if any(_matches(name, pattern) for pattern in last_block):
        return "last block (skip_last_block)"
    return config.settings()


def _is_parametrized(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module, "weight") or "weight_orig" in module._parameters


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.weight", pattern)


def _sqnr(values: Tensor, approximation: Tensor) -> float | None:
    signal = float(values.double().square().sum())
    noise = float((values.double() - approximation.double()).square().sum())
    return 10 * math.log10(signal / noise) if signal and noise else None


def _some(names: list[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _attach(model: nn.Module, config: QuantizeConfig) -> None:
    from diffusers import ModelMixin

    if isinstance(model, ModelMixin):
        from ..integration import attach

        attach(model, config)
