# SPDX-License-Identifier: Apache-2.0
"""Quantize the weights of a model in place: plan every layer, report every problem, then change the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.components import all_networks, is_pipeline, networks_of, refuse_name
from .activations import input_ranges
from .bias_correction import corrected_biases
from .calibration import CalibrationTask, copy_of
from .config import QuantizeConfig
from .folding import fold_rest_, remove_parametrization_
from .integers import input_ends
from .packed import base_class, pack_module_, packed_modules, unpack_module_
from .plan import QuantizationPlan, plan_quantization, require_finite, weighted_modules
from .report import LayerReport, PipelineReport, QuantizeReport
from .rows import QuantizedWeight, channels_first_shape, pack_quantized, quantize_rows, weight_rows


class Keeper(NamedTuple):
    """What makes a model savable by its library after it was quantized in memory, and undoes that."""

    attach: Callable[[nn.Module, QuantizeConfig], None]
    detach: Callable[[nn.Module], None]


# By the base class of a library's models; :mod:`hf_ganzip.integration` fills it when a library is imported.
KEEPERS: dict[str, Keeper] = {}


def quantize_(
    model: nn.Module | Any, config: Any = None, *, components: Iterable[str] | None = None, **options: Any
) -> QuantizeReport | PipelineReport:
    """Quantize the weights of a model, or of networks of a pipeline, in place.

    Weights of linear and convolution layers, also transposed and modulated ones, are replaced by packed codes and
    scales; biases, norms, noise and constants stay. diffusers models can then be saved with ``save_pretrained`` and
    restored with a plain ``from_pretrained``.

    Args:
        model: Any module, or a pipeline of diffusers. Packed weights cannot be trained; :func:`dequantize_` gives back
            parameters that are trainable if they were before. All other parameters stay as they are, trainable or not.
        config: A :class:`QuantizeConfig`, a :class:`~hf_ganzip.GanzipConfig`, or a method; default: "auto", 4 bits,
            preset "best".
        components: Of a pipeline: names of the networks to quantize; None: its denoiser (``unet``, ``transformer``,
            ``generator``).
        **options: Options of :class:`QuantizeConfig`, instead of ``config`` or to change it.

    Returns:
        Report with every weight: bits, error, bytes before and after, or why it was skipped. Of a pipeline:
        component -> report.

    Raises:
        TypeError: An unknown option, or the name of a model.
        ValueError: Nothing to quantize, a pattern that matches no layer, non-finite weights, or an already quantized
            model. All problems are reported at once, and the model is unchanged. Components that a pipeline has not,
            or of a model.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> report = quantize_(model, "linear", bits=4)
        >>> [layer.bits for layer in report.layers], model[0].weight.unique().numel() <= 15
        ([4, 4], True)
    """
    refuse_name(model)
    config = QuantizeConfig.of(config, **options)
    if is_pipeline(model):
        return _quantize_pipeline_(model, config, components)
    if components is not None:
        raise ValueError(f"quantize_: components are those of a pipeline; a {type(model).__name__} has none.")
    plan = plan_quantization(model, config)
    sqnr_db = apply_plan_(model, plan, config)
    for keeper in _keepers(model):
        keeper.attach(model, config)
    return quantization_report(model, plan, sqnr_db)


def _quantize_pipeline_(pipeline: Any, config: QuantizeConfig, components: Iterable[str] | None) -> PipelineReport:
    """:func:`.quantize_` of networks of a pipeline, by default its denoiser; all are planned before any is changed.

    Raises:
        ValueError: As :func:`.quantize_`, of any of them, or no such network; nothing is changed then.
    """
    networks = networks_of(pipeline, components)
    for name, network in networks.items():
        try:
            require_finite(network, plan_quantization(network, config), "quantize_")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    reports: dict[str, Any] = {name: quantize_(network, config) for name, network in networks.items()}
    return PipelineReport(reports)


def apply_plan_(model: nn.Module, plan: QuantizationPlan, config: QuantizeConfig) -> dict[str, float | None]:
    """Quantize as planned, and put the packed weights into the model; returns the errors in decibel by module name."""
    quantized, tuned = quantize_weights(model, plan)
    static = [name for name, weight in quantized.items() if weight.layout.activations == "static"]
    for name, buffers in input_ranges(model, static, config).items() if static else ():
        quantized[name].buffers.update(buffers)
    if config.bias_correction:
        packed = copy_of(model)
        _put_(packed, quantized, tuned, config)
        tuned |= corrected_biases(packed, model, config, tuned)
    _put_(model, quantized, tuned, config)
    return {name: weight.sqnr_db for name, weight in quantized.items()}


@torch.no_grad()
def _put_(
    model: nn.Module, quantized: dict[str, QuantizedWeight], tuned: dict[str, Tensor], config: QuantizeConfig
) -> None:
    """Packed weights in place of those that the model has, and tuned values of parameters."""
    modules: dict[str, Any] = {name: model.get_submodule(name) for name in quantized}
    dtypes = {name: module.weight.dtype for name, module in modules.items()}
    if packed_modules(model):
        dequantize_(model)
    for name, weight in quantized.items():
        remove_parametrization_(modules[name])
        pack_module_(modules[name], weight.layout, weight.buffers, dtype=dtypes[name], compute=config.compute)
    for name, value in tuned.items():
        model.get_parameter(name).copy_(value)


def dequantize_(model: nn.Module | Any) -> None:
    """Turn packed layers of a model, or of all networks of a pipeline, back into ordinary ones, with the weights they
    computed with; saves as an ordinary folder.

    Parameters are trainable if they were before the model was quantized; those of a loaded model are, as after any
    ``from_pretrained``.

    Raises:
        ValueError: The model has no packed layer.
    """
    modules = packed_modules(model)
    if not modules:
        raise ValueError("dequantize_: the model has no packed layer.")
    if is_pipeline(model):
        for network in all_networks(model).values():
            if packed_modules(network):
                dequantize_(network)
        return
    for module in modules.values():
        unpack_module_(module)
    if fold_rest_(model):
        model.register_to_config(spectral_norm=False)  # type: ignore[operator]  # ConfigMixin's
    for keeper in _keepers(model):
        if getattr(model, "hf_quantizer", None) is not None:
            keeper.detach(model)


def _keepers(model: nn.Module) -> list[Keeper]:
    return [KEEPERS[name] for cls in type(model).__mro__ if (name := f"{cls.__module__}.{cls.__name__}") in KEEPERS]


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


def quantization_report(model: nn.Module, plan: QuantizationPlan, sqnr_db: dict[str, float | None]) -> QuantizeReport:
    """Report on a model that was quantized as planned; ``sqnr_db`` by module name."""
    layers, counted = [], 0
    module: Any
    for name, module in weighted_modules(model).items():
        entry: dict[str, Any] = {"name": f"{name}.weight", "kind": type(module).__name__}
        if name in plan.settings:
            settings, layout = plan.settings[name], module.packed_layout
            counted += layout.packed_bytes
            entry |= {"kind": base_class(module).__name__, "shape": layout.shape, "bytes_after": layout.packed_bytes}
            entry |= {"bytes_before": math.prod(layout.shape) * module.packed_dtype.itemsize, "bits": settings.bits}
            notes = [plan.notes.get(name)]
            if settings.svd_rank and not layout.rank:
                notes.append("no low rank (beyond float16)")
            if settings.activations and not layout.activations:
                notes.append(f"activations in float ({layout.not_integers()})")
            entry |= {"method": settings.method_name, "sqnr_db": sqnr_db[name]}
            entry |= {"note": "; ".join(filter(None, notes)) or None}
            entry |= {"activations": layout.activations or None, "input_range": input_ends(module)}
        else:
            size = module.weight.nbytes
            counted += size
            entry |= {"shape": tuple(module.weight.shape), "bytes_before": size, "bytes_after": size}
            entry |= {"skipped": plan.skipped[name]}
        layers.append(LayerReport(**entry))
    total = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return QuantizeReport(tuple(layers), other_bytes=total - counted)
