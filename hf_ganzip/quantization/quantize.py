# SPDX-License-Identifier: Apache-2.0
"""Quantize the weights of a model in place: plan every layer, report every problem, then change the model."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..families import family_of
from .calibration import TRANSPOSED, CalibrationTask, channels_first
from .config import SCALE_DTYPES, LayerSettings, QuantizeConfig
from .folding import fold_rest_, folded_weight, is_parametrized, remove_parametrization_
from .grid import QuantizedRows
from .packed import (
    PackedLayout,
    PackedWeightMixin,
    base_class,
    pack_module_,
    pack_rows,
    packed_modules,
    unpack_module_,
    unpack_rows,
)
from .report import LayerReport, QuantizeReport


QUANTIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


OUTPUT_EMBEDDINGS = "output embeddings, or their weight (their library ties it to the input embeddings)"


@dataclass(frozen=True)
class QuantizationPlan:
    """Which modules are quantized how, and why the others are not; both by module name."""

    settings: dict[str, LayerSettings]
    skipped: dict[str, str]


@dataclass(frozen=True)
class QuantizedWeight:
    """Buffers of one packed layer before they are put into its module."""

    layout: PackedLayout
    buffers: dict[str, Tensor]
    sqnr_db: float | None


def quantize_(model: nn.Module, config: QuantizeConfig | None = None) -> QuantizeReport:
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
    sqnr_db = apply_plan_(model, plan, config.compute)
    model.requires_grad_(False)
    from ..integration import attach

    attach(model, config)
    return quantization_report(model, plan, sqnr_db)


def apply_plan_(model: nn.Module, plan: QuantizationPlan, compute: str) -> dict[str, float | None]:
    """Quantize as planned, and put the packed weights into the model; returns the error of each in decibel, by module name."""
    modules = dict(model.named_modules())
    dtypes = {name: modules[name].weight.dtype for name in plan.settings}
    quantized, tuned = quantize_weights(model, plan)
    if packed_modules(model):
        dequantize_(model)
    for name, weight in quantized.items():
        remove_parametrization_(modules[name])
        pack_module_(modules[name], weight.layout, weight.buffers, dtype=dtypes[name], compute=compute)
    with torch.no_grad():
        for name, value in tuned.items():
            model.get_parameter(name).copy_(value)
    return {name: weight.sqnr_db for name, weight in quantized.items()}


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
    if fold_rest_(model):
        model.register_to_config(spectral_norm=False)
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
    already = {} if config.requantize else packed_modules(model)
    if already:
        problems.append(
            f"{len(already)} layers are already quantized, the first is {next(iter(already))!r}; dequantize_ first, "
            "or set requantize=True to quantize the unpacked weights again"
        )
    settings, skipped = {}, {}
    head = _output_weights(model)
    for name, module in weights.items():
        decision = OUTPUT_EMBEDDINGS if name in head else _decide(name, module, config, last_block)
        if isinstance(decision, str):
            skipped[name] = decision
        else:
            settings[name] = decision
    problems += _group_problems(weights, settings)
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
        or is_parametrized(module)
    }


def quantize_weights(model: nn.Module, plan: QuantizationPlan) -> tuple[dict[str, QuantizedWeight], dict[str, Tensor]]:
    """Quantize all weights of a plan, calibrated methods last, changing nothing.

    Returns:
        Packed weights by module name, and new values of full-precision parameters that a method tuned, by name.

    Raises:
        ValueError: Weights with NaN or infinity, all of them named.
    """
    modules = dict(model.named_modules())
    require_finite(model, plan, "quantize_")
    found = {
        name: quantize_rows(weight_rows(modules[name], settings), channels_first_shape(modules[name]), settings)
        for name, settings in plan.settings.items()
    }
    tuned: dict[str, Tensor] = {}
    for method in dict.fromkeys(s.method for s in plan.settings.values() if hasattr(s.method, "calibrate")):
        own = [name for name, settings in plan.settings.items() if settings.method == method]
        task = CalibrationTask(model, plan.settings, found, own)
        changed, parameters = method.calibrate(task)
        found |= changed
        tuned |= parameters
    return {name: pack_quantized(modules[name], plan.settings[name], found[name]) for name in found}, tuned


def require_finite(model: nn.Module, plan: QuantizationPlan, caller: str) -> None:
    """Check the weights of a plan.

    Raises:
        ValueError: Weights with NaN or infinity, all of them named.
    """
    broken = [name for name in plan.settings if not torch.isfinite(folded_weight(model.get_submodule(name))).all()]
    if broken:
        raise ValueError(f"{caller}: weights with NaN or infinity: {', '.join(broken)}; nothing was changed.")


def quantize_weight(module: nn.Module, settings: LayerSettings, weight: Tensor | None = None) -> QuantizedWeight:
    """Quantize one weight; ``module`` is not changed. ``weight`` replaces ``module.weight`` where that is not loaded yet."""
    rows = weight_rows(module, settings, weight)
    shape = channels_first_shape(module)
    return pack_quantized(module, settings, quantize_rows(rows, shape, settings), weight)


def weight_rows(module: nn.Module, settings: LayerSettings, weight: Tensor | None = None) -> Tensor:
    """The weight cut into rows with a scale of their own, (R, N) float32 or float64; output channels first."""
    weight = (folded_weight(module) if weight is None else weight).detach()
    values = weight if weight.dtype == torch.float64 else weight.float()
    moved = channels_first(module, values)
    rows = {"tensor": 1, "channel": len(moved), "group": moved.numel() // settings.group_size}[settings.granularity]
    return moved.reshape(rows, -1)


def quantize_rows(rows: Tensor, shape: tuple[int, ...], settings: LayerSettings) -> QuantizedRows:
    """Quantize ``rows`` (R, N) of a weight of ``shape``, output channels first.

    Raises:
        ValueError: The method returned a scale that is not finite.
    """
    method, dtype = settings.method, SCALE_DTYPES[settings.scale_dtype]
    if hasattr(method, "quantize_channels"):
        found = method.quantize_channels(rows.reshape(shape[0], shape[1], -1), settings.bits, len(rows), dtype)
    elif settings.symmetric:
        found = method(rows, settings.bits, dtype)
    else:
        center = method.center(rows) if hasattr(method, "center") else rows.mean(dim=1, keepdim=True)
        center = center.to(dtype) if bool(torch.isfinite(center.to(dtype)).all()) else center.float()
        found = method(rows - center.to(rows.dtype), settings.bits, dtype)
        found = dataclasses.replace(found, offset=center.to(found.scale.dtype))
    if not torch.isfinite(found.scale).all():
        raise ValueError(
            f"quantize_: {settings.method_name} gave a scale that is not finite; the weights exceed float32."
        )
    return found


def pack_quantized(
    module: nn.Module, settings: LayerSettings, found: QuantizedRows, weight: Tensor | None = None
) -> QuantizedWeight:
    """Layout, buffers and error of quantized rows; ``module`` is not changed."""
    weight = folded_weight(module) if weight is None else weight
    layout = PackedLayout(
        settings.bits,
        tuple(weight.shape),
        len(found.scale),
        axis=int(isinstance(module, TRANSPOSED)),
        scale_dtype=str(found.scale.dtype).removeprefix("torch."),
        level_offset=found.level_offset,
        codebook=found.codebook is not None,
        offset=found.offset is not None,
        splits=0 if found.sources is None else len(found.sources),
    )
    buffers = pack_rows(found, layout)
    return QuantizedWeight(layout, buffers, _sqnr(weight.detach(), unpack_rows(buffers, layout)))


def quantization_report(model: nn.Module, plan: QuantizationPlan, sqnr_db: dict[str, float | None]) -> QuantizeReport:
    """Report on a model that was quantized as planned; ``sqnr_db`` by module name."""
    layers, counted = [], 0
    for name, module in weighted_modules(model).items():
        entry = {"name": f"{name}.weight", "kind": type(module).__name__}
        if name in plan.settings:
            settings, layout = plan.settings[name], module.packed_layout
            counted += layout.packed_bytes
            entry |= {"kind": base_class(module).__name__, "shape": layout.shape, "bytes_after": layout.packed_bytes}
            entry |= {"bytes_before": math.prod(layout.shape) * module.packed_dtype.itemsize, "bits": settings.bits}
            entry |= {"method": settings.method_name, "sqnr_db": sqnr_db[name]}
        else:
            size = module.weight.nbytes
            counted += size
            entry |= {"shape": tuple(module.weight.shape), "bytes_before": size, "bytes_after": size}
            entry |= {"skipped": plan.skipped[name]}
        layers.append(LayerReport(**entry))
    total = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return QuantizeReport(tuple(layers), other_bytes=total - counted)


def _output_weights(model: nn.Module) -> set[str]:
    """Names of the output embeddings of a transformers model and of the modules that share their weight."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is None:
        return set()
    weight = getattr(output, "weight", None)
    shares = {name for name, module in model.named_modules() if weight is not None and _own_weight(module) is weight}
    return shares | {name for name, module in model.named_modules() if module is output}


def _own_weight(module: nn.Module) -> Tensor | None:
    return module._parameters.get("weight")


def _decide(name: str, module: nn.Module, config: QuantizeConfig, last_block: tuple[str, ...]) -> LayerSettings | str:
    shape = _shape(module)
    if len(shape) < 2:
        return "one-dimensional weight (norm)"
    if isinstance(module, nn.Embedding) and not config.embeddings:
        return "embedding (embeddings=True quantizes it)"
    kinds = (*QUANTIZABLE, nn.Embedding)
    if not isinstance(module, kinds) and not getattr(type(module), "ganzip_quantizable", False):
        return f"{type(module).__name__} is not quantized"
    if not torch.Size(shape).numel():
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


def _group_problems(weights: dict[str, nn.Module], settings: dict[str, LayerSettings]) -> list[str]:
    """Layers whose weights per output channel the group size does not divide, with sizes that would."""
    wrong, lengths = [], []
    for name, chosen in settings.items():
        outputs, *rest = channels_first_shape(weights[name])
        length = torch.Size(rest).numel()
        if chosen.granularity == "group":
            lengths.append(length)
            if length % chosen.group_size:
                wrong.append(f"{name} ({length} weights per output channel, group_size {chosen.group_size})")
    if not wrong:
        return []
    common = math.gcd(*lengths)
    fitting = [size for size in range(2, min(common, 1024) + 1) if common % size == 0]
    return [
        f"groups do not divide {', '.join(wrong)}; "
        + (f"for all layers work {', '.join(map(str, fitting))}, or " if fitting else "")
        + "set granularity 'channel' for these layers in overrides"
    ]


def _shape(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, PackedWeightMixin):
        return module.packed_layout.shape
    return tuple(folded_weight(module).shape) if is_parametrized(module) else tuple(module.weight.shape)


def channels_first_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of the weight of ``module``, output channels first."""
    shape = _shape(module)
    return (shape[1], shape[0], *shape[2:]) if isinstance(module, TRANSPOSED) else shape


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.weight", pattern)


def _sqnr(values: Tensor, approximation: Tensor) -> float | None:
    signal = float(values.double().square().sum())
    noise = float((values.double() - approximation.double()).square().sum())
    return 10 * math.log10(signal / noise) if signal and noise else None


def _some(names: list[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
