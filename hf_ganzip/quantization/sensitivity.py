# SPDX-License-Identifier: Apache-2.0
"""Which layers need their bits: their effects on the model's output, measured without data, and what follows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..core.components import network_of
from ..core.modes import evaluating
from ..core.record import table
from ..core.reports import Report, conditions_table
from ..families import family_of
from ..families.passes import Calibration
from .calibration import CalibrationTask, Rounder, expanded, substituted
from .config import LayerSettings, QuantizeConfig
from .methods.base import row_method
from .packed import packed_modules
from .plan import plan_quantization, require_finite
from .quantize import quantize_
from .rows import channels_first_shape, pack_quantized, quantize_rows, weight_rows


@dataclass(frozen=True)
class LayerSensitivity:
    """One weight.

    Args:
        name: Module name.
        weights: Number of weights.
        errors: Bits -> error of the model's output when only this weight is quantized.
        bytes: Bits -> bytes of the packed weight.
        activation_error: Error when, with all weights in 8 bits, only this layer's inputs are rounded to 8 bits, too;
            None where that was not measured, or inputs stay in floating point anyway.
    """

    name: str
    weights: int
    errors: dict[int, float]
    bytes: dict[int, int]
    activation_error: float | None = None


@dataclass(frozen=True, repr=False)
class SensitivityReport(Report):
    """Effect of every weight on the output, from :func:`sensitivity`.

    Args:
        layers: In model order.
        conditions: What the numbers depend on.
    """

    layers: tuple[LayerSensitivity, ...]
    conditions: dict[str, Any]

    def exclude(self, bits: int, max_error: float) -> list[str]:
        """Names whose error at ``bits`` is above ``max_error``: a ``skip`` list for :class:`~hf_ganzip.QuantizeConfig`.

        Raises:
            ValueError: Bits that were not measured.
        """
        measured = list(self.layers[0].errors) if self.layers else []
        if bits not in measured:
            raise ValueError(f"exclude: {bits} bits were not measured; allowed are {', '.join(map(str, measured))}.")
        return [layer.name for layer in self.layers if layer.errors[bits] > max_error]

    def float_activations(self, share: float = 0.5) -> dict[str, dict[str, None]]:
        """The fewest layers that together cause ``share`` of the errors of activations, to stay in floating point.

        As ``overrides`` for :class:`~hf_ganzip.QuantizeConfig` with ``activations="int8"``.

        Raises:
            ValueError: Activations were not measured, or a share outside 0..1.
        """
        measured = {each.name: each.activation_error for each in self.layers if each.activation_error is not None}
        if not measured:
            raise ValueError("float_activations: they were not measured; call sensitivity(model, activations=True).")
        if not 0 <= share <= 1:
            raise ValueError(f"float_activations: share is {share}; allowed are 0 to 1.")
        left, found = share * sum(measured.values()), {}
        for name in sorted(measured, key=measured.__getitem__, reverse=True):
            if left <= 0:
                break
            left -= measured[name]
            found[name] = {"activations": None}
        return found

    def allocate(
        self, *, mean_bits: float | None = None, target_bytes: int | None = None
    ) -> dict[str, dict[str, int]]:
        """Bits of layers with the least sum of errors within a budget, as ``overrides`` for ``QuantizeConfig``.

        Errors of single layers are taken to add up. Starting from the fewest bits, the upgrade with the largest gain
        per byte is made, on the lower convex hull of each layer's errors, until the next one would exceed the budget.

        Args:
            mean_bits: Budget in stored bits per weight, scales included.
            target_bytes: Budget in bytes of all packed weights; give one of the two.

        Raises:
            ValueError: Not exactly one budget, or one that even the fewest bits exceed.
        """
        if (mean_bits is None) == (target_bytes is None):
            raise ValueError("allocate takes one budget: mean_bits or target_bytes.")
        weights = sum(layer.weights for layer in self.layers)
        budget = target_bytes if target_bytes is not None else int(mean_bits * weights / 8)  # type: ignore[operator]
        hulls = {layer.name: _hull(layer) for layer in self.layers}
        level = dict.fromkeys(hulls, 0)
        spent = sum(hull[0][1] for hull in hulls.values())
        if spent > budget:
            raise ValueError(
                f"allocate: the fewest bits take {spent} bytes ({8 * spent / weights:.3f} bits per weight), more than "
                f"the budget of {budget}. Measure fewer bits, or raise the budget."
            )
        steps = []
        for name, hull in hulls.items():
            for i in range(1, len(hull)):
                (_, before, error), (_, after, lower) = hull[i - 1], hull[i]
                steps.append(((error - lower) / (after - before), name, i, after - before))
        blocked = set()
        for _, name, i, cost in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
            if name in blocked or spent + cost > budget:
                blocked.add(name)
                continue
            level[name], spent = i, spent + cost
        return {name: {"bits": hulls[name][level[name]][0]} for name in hulls}

    def facts(self) -> dict[str, str]:
        bits = list(self.layers[0].errors)
        worst = max(self.layers, key=lambda layer: layer.errors[bits[0]])
        return {
            "layers": f"{len(self.layers)}",
            "bits tried": " ".join(map(str, bits)),
            f"most sensitive at {bits[0]} bits": f"{worst.name} (error {worst.errors[bits[0]]:.2e})",
        }

    def rows(self) -> list[dict[str, Any]]:
        """One for every layer and number of bits."""
        return [
            {"name": layer.name, "weights": layer.weights, "bits": bits, "error": error, "bytes": layer.bytes[bits]}
            for layer in self.layers
            for bits, error in layer.errors.items()
        ]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        bits = list(self.layers[0].errors)
        activations = any(layer.activation_error is not None for layer in self.layers)
        rows = [("layer", "weights", *(f"{b} bits" for b in bits), "activations" if activations else "")]
        for layer in sorted(self.layers, key=lambda layer: -layer.errors[bits[0]]):
            error = layer.activation_error
            last = "" if not activations else "float" if error is None else f"{error:.2e}"
            rows.append((layer.name, f"{layer.weights:,}", *(f"{layer.errors[b]:.2e}" for b in bits), last))
        return {"layers": rows, "conditions": conditions_table(self.conditions)}

    def __str__(self) -> str:
        return "\n".join(table(self.tables()["layers"]))


def sensitivity(
    model: nn.Module,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    metric: str | Callable[[Tensor, Tensor], Any] = "mse",
    *,
    config: Any = None,
    num_samples: int = 32,
    inputs: Calibration | None = None,
    activations: bool = False,
    progress: bool = True,
) -> SensitivityReport:
    """Quantize one weight at a time and measure how far the model's output moves; the model is not changed.

    Args:
        model: A model of a family with inputs of its own (GAN generators: latents; diffusion models: their
            trajectories; autoencoders: smooth random images), or a pipeline with one as its denoiser; with ``inputs``,
            any model.
        bits: Bits to try, each 2 to 8.
        metric: "mse", the squared error of the output relative to its mean square, or a function
            ``(output, target) -> number``, smaller is better.
        config: Method, granularity, skipped layers, as for :func:`~hf_ganzip.quantize_`; None means
            "codebook". Its headroom plays no part: all layers are measured. "gptq", and "latent_distill", which starts
            from it, are measured with errors compensated; what is trained is not.
        num_samples: Samples in the comparison, 1 or more; rounded up to whole batches of at most 16, or 4 of a
            diffusion model, each at a timestep of its own.
        inputs: Function (model, batch_size, seed) -> iterator of functions model -> output, instead of the
            model's own inputs. None: those of the config's method, if it has some.
        activations: Also round one layer's inputs at a time to 8 bits, as ``activations="int8"`` does.
        progress: Show a progress bar.

    Raises:
        ValueError: As :func:`~hf_ganzip.quantize_`; unknown metric; no samples; a model without inputs of its own, and
            no ``inputs``.
    """
    model = network_of(model)
    measure = _relative_error if metric == "mse" else metric
    if not callable(measure):
        raise ValueError(f"metric is {metric!r}; allowed are 'mse' or a function (output, target) -> number.")
    if num_samples < 1:
        raise ValueError(f"sensitivity: num_samples is {num_samples}; allowed are 1 and more.")
    config = QuantizeConfig.of(config or "codebook", headroom=0.0)
    plan = plan_quantization(model, config)
    require_finite(model, plan, "sensitivity")
    task = CalibrationTask(model, plan.settings, {}, [])
    working = task.working_model()
    family = family_of(model)
    batch = min(num_samples, family.samples_together if family else 16)
    rounders = _rounders(model, plan.settings, inputs, progress)
    settings = {name: dataclasses.replace(s, method=row_method(s.method)) for name, s in plan.settings.items()}
    found = []
    with torch.no_grad(), evaluating(working):
        batches = task.batches(inputs or getattr(config.settings().method, "inputs", None), batch, 0)
        forwards = list(islice(batches, -(-num_samples // batch)))
        targets = [forward(working) for forward in forwards]
        error = partial(_mean_error, working, forwards, targets, measure)
        with tqdm(total=len(settings) * len(bits), desc="sensitivity", disable=not progress) as bar:
            for name, own in settings.items():
                found.append(_of_layer(working, name, own, bits, error, rounders.get(name)))
                bar.update(len(bits))
        if activations:
            rounded = _activation_errors(model, forwards, measure, inputs, progress)
            found = [dataclasses.replace(layer, activation_error=rounded.get(layer.name)) for layer in found]
    conditions = {
        "metric": metric if isinstance(metric, str) else getattr(metric, "__qualname__", repr(metric)),
        "method": next(iter(plan.settings.values())).method_name,
        "granularity": config.granularity,
        "num_samples": batch * len(forwards),
    }
    return SensitivityReport(tuple(found), conditions)


def _rounders(
    model: nn.Module, settings: Mapping[str, Any], inputs: Calibration | None, progress: bool
) -> dict[str, Rounder]:
    """By layer name, of layers whose method compensates errors."""
    found: dict[str, Rounder] = {}
    for method in {id(s.method): s.method for s in settings.values()}.values():
        own = [name for name, s in settings.items() if s.method is method]
        if hasattr(method, "rounder"):
            shown = progress and method.progress
            method = dataclasses.replace(method, inputs=inputs or method.inputs, progress=shown)
            rounder = method.rounder(CalibrationTask(model, settings, {}, own))
            found |= dict.fromkeys(own, rounder) if rounder else {}
    return found


def _of_layer(
    model: nn.Module,
    name: str,
    settings: LayerSettings,
    bits: Sequence[int],
    error: Callable[[], float],
    rounder: Rounder | None,
) -> LayerSensitivity:
    """Errors of the output, and bytes, with this layer alone quantized."""
    module: Any = model.get_submodule(name)
    errors, sizes = {}, {}
    for b in bits:
        chosen = dataclasses.replace(settings, bits=b)
        quantized = quantize_rows(weight_rows(module, chosen), channels_first_shape(module), chosen)
        if rounder is not None:
            quantized = rounder(name, quantized, b)
        sizes[b] = pack_quantized(module, chosen, quantized).layout.packed_bytes
        with substituted(model, {f"{name}.weight": expanded(module, quantized)}):
            errors[b] = error()
    return LayerSensitivity(name, module.weight.numel(), errors, sizes)


def _activation_errors(
    model: nn.Module, forwards: list[Callable[..., Any]], measure: Callable[..., Any], inputs: Any, progress: bool
) -> dict[str, float]:
    """Layer name -> error of the output when, of a model with weights in 8 bits, its inputs alone are rounded."""
    packed = copy.deepcopy(model)
    quantize_(packed, bits=8, activations="int8", activation_inputs=inputs, compute="dequantized")
    layers = {name: each for name, each in packed_modules(packed).items() if each.packed_layout.activations}
    found = {}
    with evaluating(packed):
        targets = [forward(packed) for forward in forwards]
        for name, layer in tqdm(layers.items(), "activations", disable=not progress):
            layer.packed_compute = "int8"
            found[name] = _mean_error(packed, forwards, targets, measure)
            layer.packed_compute = "dequantized"
            layer._forget()
    return found


def _mean_error(model: nn.Module, forwards: list[Any], targets: list[Tensor], measure: Callable[..., Any]) -> float:
    return sum(float(measure(forward(model), target)) for forward, target in zip(forwards, targets)) / len(forwards)


def _relative_error(output: Tensor, target: Tensor) -> Tensor:
    output, target = output.float(), target.float()  # small errors are lost in half precision
    return (output - target).square().mean() / target.square().mean().clamp_min(1e-12)


def _hull(layer: LayerSensitivity) -> list[tuple[int, int, float]]:
    """(bits, bytes, error) of the lower convex hull of errors over bytes, from the fewest bytes on."""
    points = sorted((layer.bytes[b], layer.errors[b], b) for b in layer.errors)
    hull: list[tuple[int, float, int]] = []
    for size, error, b in points:
        if hull and error >= hull[-1][1]:
            continue  # more bytes for nothing
        while len(hull) > 1:
            (size0, error0, _), (size1, error1, _) = hull[-2:]
            if (error0 - error1) * (size - size1) > (error1 - error) * (size1 - size0):
                break
            hull.pop()
        hull.append((size, error, b))
    return [(b, size, error) for size, error, b in hull]
