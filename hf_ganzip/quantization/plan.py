# SPDX-License-Identifier: Apache-2.0
"""Which weights of a model are quantized, and how; why the others are not."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.registry import suggestion
from ..families import family_of, sensitive_layers
from .chunks import all_finite
from .config import LayerSettings, QuantizeConfig
from .folding import folded_weight, is_parametrized
from .integers import geometry_of
from .packed import PackedWeightMixin, base_class, packed_modules
from .rotation import POWERS, block_of
from .rows import channels_first_shape, weight_shape
from .spread import spread_bits


QUANTIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FACTOR_BITS = 16  # of the factors of a low rank
_SMALLEST_GROUP = 16  # of those that are taken where the group size does not divide
OUTPUT_EMBEDDINGS = "output embeddings, or their weight (their library ties it to the input embeddings)"


@dataclass(frozen=True)
class QuantizationPlan:
    """Which modules are quantized how, what differs from what was asked, and why the others are not; by module name."""

    settings: dict[str, LayerSettings]
    skipped: dict[str, str]
    notes: dict[str, str]


def plan_quantization(model: nn.Module, config: QuantizeConfig) -> QuantizationPlan:
    """Decide for every weight whether and how it is quantized, changing nothing.

    Raises:
        ValueError: As in :func:`quantize_`, except for non-finite weights.
    """
    weights = weighted_modules(model)
    family = family_of(model)
    last_block = family.last_block(model) if family and config.skip_last_block else ()
    problems = [
        _unmatched(kind, pattern, weights)
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
    settings: dict[str, LayerSettings] = {}
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    head = _output_weights(model)
    for name, module in weights.items():
        decision = OUTPUT_EMBEDDINGS if name in head else _decide(name, module, config, last_block)
        if isinstance(decision, str):
            skipped[name] = decision
        else:
            settings[name] = decision
    for name, chosen in settings.items():
        if chosen.hadamard is None:
            rotates = getattr(chosen.method, "rotates", lambda bits, denoiser: False)
            denoiser = family is not None and family.mixed is not None
            settings[name] = dataclasses.replace(chosen, hadamard=rotates(config.bits, denoiser))
    _spread_headroom(config, model, settings, skipped, notes)
    problems += _fit_groups(weights, settings, notes) + _fit_low_rank(config, weights, settings, notes)
    problems += _fit_activations(config, model, settings, notes)
    for name, chosen in settings.items():
        length = math.prod(channels_first_shape(weights[name])[1:])
        if chosen.hadamard and not block_of(length):
            _note(notes, name, f"not rotated ({POWERS[0]} does not divide {length})")
    if not settings and not already:
        name = type(model).__name__
        problems.append(f"there is nothing to quantize in {name} ({len(weights)} weights, all skipped)")
    if problems:
        raise ValueError(f"quantize_: {'; '.join(problems)}; nothing was changed. Layers: {_some(list(weights))}.")
    return QuantizationPlan(settings, skipped, notes)


def require_finite(model: nn.Module, plan: QuantizationPlan, caller: str) -> None:
    """Check the weights of a plan.

    Raises:
        ValueError: Weights with NaN or infinity, all of them named.
    """
    broken = [name for name in plan.settings if not all_finite(folded_weight(model.get_submodule(name)).detach())]
    if broken:
        raise ValueError(f"{caller}: weights with NaN or infinity: {', '.join(broken)}; nothing was changed.")


def weighted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that own a parameter ``weight`` (or a packed one), in model order, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module._parameters.get("weight"), Tensor)
        or isinstance(module, PackedWeightMixin)
        or is_parametrized(module)
    }


def _output_weights(model: nn.Module) -> set[str]:
    """Names of the output embeddings of a transformers model and of the modules that share their weight."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is None:
        return set()
    weight = getattr(output, "weight", None)
    shared = set() if weight is None else {weight}
    return {n for n, module in model.named_modules() if module is output or module._parameters.get("weight") in shared}


def _decide(name: str, module: nn.Module, config: QuantizeConfig, last_block: tuple[str, ...]) -> LayerSettings | str:
    shape = weight_shape(module)
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
    pattern = _override(name, config)
    if pattern is not None:
        return config.settings(config.overrides[pattern]) or f"overrides[{pattern!r}] sets bits to None"
    if any(_matches(name, pattern) for pattern in last_block):
        return "last block (skip_last_block)"
    return config.settings()


def _override(name: str, config: QuantizeConfig) -> str | None:
    """The first pattern of ``overrides`` that matches."""
    return next((pattern for pattern in config.overrides if _matches(name, pattern)), None)


def _spread_headroom(
    config: QuantizeConfig,
    model: nn.Module,
    settings: dict[str, LayerSettings],
    skipped: dict[str, str],
    notes: dict[str, str],
) -> None:
    """More bits for small and sensitive layers, but for those whose bits ``overrides`` chose."""
    if not config.headroom:
        return
    free = [name for name in settings if "bits" not in config.overrides.get(_override(name, config), {})]
    patterns = sensitive_layers(model)
    sensitive = {name for name in free if any(_matches(name, pattern) for pattern in patterns)}
    sizes = {name: math.prod(weight_shape(model.get_submodule(name))) for name in free}
    asked = {name: settings[name].bits for name in free}
    for name, bits in spread_bits(sizes, asked, config.headroom, sensitive).items():
        kind = "sensitive" if name in sensitive else "small"
        if bits is None:
            del settings[name]
            skipped[name] = f"{kind} (headroom)"
        elif bits > asked[name]:
            settings[name] = dataclasses.replace(settings[name], bits=bits)
            notes[name] = f"{kind} (headroom)"


def _fit_groups(weights: dict[str, nn.Module], settings: dict[str, LayerSettings], notes: dict[str, str]) -> list[str]:
    """Give layers that groups do not divide smaller ones, or a scale per channel; problems, if none can have groups."""
    grouped = {name: chosen for name, chosen in settings.items() if chosen.granularity == "group"}
    fitted = 0
    for name, chosen in grouped.items():
        length = math.prod(channels_first_shape(weights[name])[1:])
        descending = range(chosen.group_size, min(_SMALLEST_GROUP, chosen.group_size) - 1, -1)
        sizes = [size for size in descending if length % size == 0]
        fitted += bool(sizes)
        if sizes[:1] == [chosen.group_size]:
            continue
        why = f"{chosen.group_size} does not divide {length}"
        if sizes:
            settings[name], note = dataclasses.replace(chosen, group_size=sizes[0]), f"groups of {sizes[0]} ({why})"
        else:
            settings[name], note = dataclasses.replace(chosen, granularity="channel"), f"one scale per channel ({why})"
        _note(notes, name, note)
    if grouped and not fitted:
        asked = " and ".join(map(str, sorted({chosen.group_size for chosen in grouped.values()})))
        return [
            f"no layer has output channels that group_size {asked} or a smaller size of at least {_SMALLEST_GROUP} "
            "divides; set granularity 'channel'"
        ]
    return []


def _fit_low_rank(
    config: QuantizeConfig, weights: dict[str, nn.Module], settings: dict[str, LayerSettings], notes: dict[str, str]
) -> list[str]:
    """No low rank where it costs more than a bit per weight, which codes would use better; problems, if it is larger
    than all, or than asked for by name.
    """
    problems, pays = [], {}
    for name, chosen in settings.items():
        if not chosen.svd_rank:
            continue
        outputs, *inputs = channels_first_shape(weights[name])
        most, size = min(outputs, math.prod(inputs)), outputs * math.prod(inputs)
        pays[name] = size // (_FACTOR_BITS * (outputs + math.prod(inputs)))
        by_name = "svd_rank" in config.overrides.get(_override(name, config), {})
        of = f"{name}, {outputs} x {math.prod(inputs)} as a matrix"
        if by_name and chosen.svd_rank > most:
            problems.append(f"svd_rank is {chosen.svd_rank} for {of}; allowed are 0 to {most}")
        elif not by_name and chosen.svd_rank > pays[name]:
            settings[name] = dataclasses.replace(chosen, svd_rank=0)
            _note(notes, name, f"no low rank (more than {pays[name]} would cost over a bit per weight)")
    if pays and not problems and not any(settings[name].svd_rank for name in pays):
        name = max(pays, key=pays.__getitem__)
        outputs, *inputs = channels_first_shape(weights[name])
        problems.append(
            f"svd_rank is {config.svd_rank}, which is larger than any layer has use for; {name}, {outputs} x "
            f"{math.prod(inputs)} as a matrix, has for {pays[name]} (more costs over a bit per weight); choose more "
            "bits, or set svd_rank of a layer in overrides"
        )
    return problems


def _note(notes: dict[str, str], name: str, note: str) -> None:
    notes[name] = f"{notes[name]}; {note}" if name in notes else note


def _fit_activations(
    config: QuantizeConfig, model: nn.Module, settings: dict[str, LayerSettings], notes: dict[str, str]
) -> list[str]:
    """Leave activations in floats where a layer has no integers; problems, if none has, or ranges have no inputs."""
    asked = [name for name, chosen in settings.items() if chosen.activations]
    family = family_of(model)
    patterns = (family.float_activations or family.sensitive)(model) if family else ()
    for name in asked:
        module = model.get_submodule(name)
        chosen = "activations" in config.overrides.get(_override(name, config), {})
        why = None
        if geometry_of(module) is None:
            why = (base_class(module) if isinstance(module, PackedWeightMixin) else type(module)).__name__
        elif not chosen and any(_matches(name, pattern) for pattern in patterns):
            why = "sensitive"
        if why:
            settings[name] = dataclasses.replace(settings[name], activations=None)
            _note(notes, name, f"activations in float ({why})")
    if asked and not any(chosen.activations for chosen in settings.values()):
        return ["no layer can compute with integers; leave out activations='int8'"]
    if config.activation_inputs or (family and family.calibration):
        return []
    no_inputs = f"running the model, and a {type(model).__name__} has no inputs of its own; give activation_inputs"
    if "static" in {chosen.activations for chosen in settings.values()}:
        return [f"ranges of activations are found by {no_inputs}, or activation_range='dynamic'"]
    return [f"biases are corrected by {no_inputs}"] if config.bias_correction else []


def _unmatched(kind: str, pattern: str, names: Iterable[str]) -> str:
    if pattern.startswith("."):
        kind, pattern = f"{kind} or modules_to_not_convert", pattern.strip(".")
        split = [name.split(".") for name in names]
        names = {".".join(parts[i:j]) for parts in split for j in range(len(parts) + 1) for i in range(j)}
    return f"{kind} {pattern!r} matches no layer.{suggestion(sorted(names), pattern)}".removesuffix(".")


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("."):  # between dots: the modules of that name, and all below them
        return fnmatch.fnmatchcase(f".{name}.", f"*{pattern}*")
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.weight", pattern)


def _some(names: list[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
