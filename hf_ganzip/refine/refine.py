# SPDX-License-Identifier: Apache-2.0
"""Refine the weights of a (pruned) model by Singular Value Scaling, once, before fine-tuning."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..core.components import network_of
from ..core.record import Step, origin_of, record_step, recorded_steps, table
from ..core.registry import lookup, named_options
from ..core.reports import Report
from ..families import family_of
from ..quantization.packed import packed_modules
from .scalings import SCALINGS, Scaling
from .singular_values import condition_number, scaled


@named_options
@dataclass(frozen=True)
class RefineConfig:
    """Options of :func:`refine_`.

    Args:
        scaling: Key of ``SCALINGS`` or an object of that kind.
        rtol: Singular values up to ``rtol`` times the largest count as zero; None: all are scaled.
        to_rgb: StyleGAN2: refine the image outputs, too, as the paper's scripts do.
        reset_norms: Diffusion models: set group norms to weight 1, bias 0 first, as the published code does.
        skip: Glob patterns of tensor names to leave alone.
        again: Accept a model that was refined before.
        progress: Show a progress bar.
    """

    scaling: Any = "sqrt"
    rtol: float | None = None
    to_rgb: bool = True
    reset_norms: bool = True
    skip: tuple[str, ...] = ()
    again: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.skip, str):
            raise ValueError(
                f"skip is the string {self.skip!r}; it takes a list of patterns, for example [{self.skip!r}]."
            )
        lookup(SCALINGS, self.scaling, "scaling")
        if self.rtol is not None and not 0 <= self.rtol < 1:
            raise ValueError(f"rtol is {self.rtol}; allowed is 0 <= rtol < 1, or None.")

    def to_dict(self) -> dict[str, Any]:
        """For the record; an own scaling is stored by the names of its functions."""
        values = {name: value for name, value in asdict(self).items() if name != "progress"}
        values["scaling"] = _scaling_name(self.scaling)
        return values | {"skip": list(self.skip)}


@dataclass(frozen=True)
class RefinedTensor:
    """What happened to one tensor.

    Args:
        name: Tensor name.
        shape: Its shape.
        singular_values_before: Descending; None for biases.
        singular_values_after: In the same order.
        factor: Of a bias; None for weights.
    """

    name: str
    shape: tuple[int, ...]
    singular_values_before: tuple[float, ...] | None = None
    singular_values_after: tuple[float, ...] | None = None
    factor: float | None = None

    @property
    def condition_before(self) -> float | None:
        """Largest by smallest singular value."""
        return _condition(self.singular_values_before)

    @property
    def condition_after(self) -> float | None:
        """As :attr:`condition_before`."""
        return _condition(self.singular_values_after)


@dataclass(frozen=True, repr=False)
class RefineReport(Report):
    """Result of :func:`refine_`.

    Args:
        scaling: Name or text of the scaling.
        tensors: Weights and biases that were refined, in model order.
        norms: Norm layers that were reset.
    """

    scaling: str
    tensors: tuple[RefinedTensor, ...]
    norms: tuple[str, ...]

    @property
    def weights(self) -> tuple[RefinedTensor, ...]:
        """The tensors with singular values."""
        return tuple(tensor for tensor in self.tensors if tensor.singular_values_before is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite condition numbers are None."""
        rows = []
        for tensor in self.tensors:
            conditions = {f"condition_{when}": getattr(tensor, f"condition_{when}") for when in ("before", "after")}
            rows.append(asdict(tensor) | {k: None if v == math.inf else v for k, v in conditions.items()})
        return {"scaling": self.scaling, "tensors": rows, "norms": list(self.norms)}

    def facts(self) -> dict[str, str]:
        return {
            "scaling": self.scaling,
            "weights refined": f"{len(self.weights)}",
            "biases refined": f"{len(self.tensors) - len(self.weights)}",
            "norms reset": f"{len(self.norms)}",
        }

    def rows(self) -> list[dict[str, Any]]:
        """One for every tensor, with the largest singular values rather than all."""
        rows = []
        for row in self.to_dict()["tensors"]:
            values = {f"largest_{when}": row.pop(f"singular_values_{when}") for when in ("before", "after")}
            rows.append(
                row | {name: max(found, default=0.0) if found is not None else None for name, found in values.items()}
            )
        return rows

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = [("weight", "shape", "s max", "condition", "s max after", "condition after")]
        for tensor in self.weights:
            before, after = tensor.singular_values_before, tensor.singular_values_after
            first = f"{max(before or ()):.3g}", f"{tensor.condition_before:.1f}"
            then = f"{max(after or ()):.3g}", f"{tensor.condition_after:.1f}"
            rows.append((tensor.name, "x".join(map(str, tensor.shape)), *first, *then))
        return {"weights": rows}

    def __str__(self) -> str:
        counts = f"{len(self.weights)} weights and {len(self.tensors) - len(self.weights)} biases refined"
        lines = [*table(self.tables()["weights"]), f"{counts} by {self.scaling}, {len(self.norms)} norms reset"]
        return "\n".join(lines)


def refine_(model: nn.Module, config: RefineConfig | None = None) -> RefineReport:
    """Scale the singular values of the weights of a model, in place; biases by the matching rule.

    StyleGAN2 and StyleGAN3: every weight and bias of the synthesis network, affine layers
    included; mapping network, constants and noise stay. Diffusion UNets: group norms are
    reset, then every other weight and bias. Others: every weight of two or more dimensions and
    every bias outside norms. Nothing changes if anything fails.

    Args:
        model: Model in full precision; or a pipeline, whose denoiser is refined.
        config: Options.

    Returns:
        Singular values and condition numbers of every weight, before and after.

    Raises:
        ValueError: The model is quantized, was refined before, has nothing to refine, or holds NaN or infinity; a
            pattern matches nothing.

    Source:
        Singular Value Scaling, section 3; selection and bias rule of the published code.
    """
    config, model = config or RefineConfig(), network_of(model)
    if packed_modules(model):
        raise ValueError("refine_: the model is quantized; refine before quantizing, or dequantize_ first.")
    if any(step["name"] == "refine" for step in recorded_steps(model)) and not config.again:
        raise ValueError(
            "refine_: the model was refined before; a second time takes roots of roots. Set again=True if you want "
            "that."
        )
    report = scale_weights_(model, config)
    record_step(model, Step("refine", config.to_dict(), origin_of(model)))
    return report


def scale_weights_(model: nn.Module, config: RefineConfig) -> RefineReport:
    """:func:`refine_` that neither reads nor writes the record: for training that refines again and again."""
    scaling: Scaling = lookup(SCALINGS, config.scaling, "scaling")
    names, norms = selection(model, config)
    tensors, values = [], {}
    largest: dict[str, float] = {}
    parameters = dict(model.named_parameters())
    for name in tqdm(names, "refine", unit="tensor", disable=not config.progress):
        parameter = parameters[name].detach()
        owner = name.rpartition(".")[0]
        try:
            if parameter.ndim >= 2:
                found = scaled(parameter, scaling, config.rtol)
                before, after = tuple(found.before.tolist()), tuple(found.after.tolist())
                largest[owner] = max(before, default=0.0)
                values[name] = found.weight
                tensors.append(RefinedTensor(name, tuple(parameter.shape), before, after))
            else:
                norm = float(parameter.double().norm())
                if not math.isfinite(norm):
                    raise ValueError("the bias holds NaN or infinity.")
                factor = scaling.bias(norm, largest.get(owner))
                values[name] = parameter * factor
                tensors.append(RefinedTensor(name, tuple(parameter.shape), factor=factor))
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise ValueError(f"refine_: {name}: {error} Nothing was changed.") from error
    _apply(model, parameters, values, norms)
    return RefineReport(str(config.to_dict()["scaling"]), tuple(tensors), tuple(norms))


def selection(model: nn.Module, config: RefineConfig) -> tuple[list[str], list[str]]:
    """Names of the tensors to refine (weights before the biases beside them), and of the norms to reset.

    Raises:
        ValueError: Nothing to refine, or a pattern that matches no tensor.
    """
    family = family_of(model)
    prefix = family.refine_prefix if family else ""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)]
    inside = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    names = []
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        kind = "weight" in leaf and parameter.ndim >= 2 or "bias" in leaf and parameter.ndim == 1
        if kind and name.startswith(prefix) and owner not in inside and "norm" not in name:
            names.append(name)
    if not config.to_rgb:
        names = [name for name in names if "torgb" not in name]
    unmatched = [pattern for pattern in config.skip if not fnmatch.filter(names, pattern)]
    if unmatched:
        raise ValueError(f"refine_: the patterns {', '.join(map(repr, unmatched))} match no tensor.")
    names = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in config.skip)]
    if not names:
        raise ValueError(f"refine_: there is nothing to refine in {type(model).__name__}.")
    return names, norms if config.reset_norms else []


@torch.no_grad()
def _apply(model: nn.Module, parameters: Mapping[str, Tensor], values: dict[str, Tensor], norms: list[str]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
    for name in norms:
        module: Any = model.get_submodule(name)
        if module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _scaling_name(scaling: Any) -> str:
    known = [name for name, each in SCALINGS.items() if scaling == name or scaling is each]
    if known:
        return known[0]
    parts = [getattr(scaling, part, None) for part in ("values", "bias")]
    names = [getattr(each, "__name__", type(each).__name__) for each in parts]
    return f"{type(scaling).__name__}({', '.join(names)})"


def _condition(values: tuple[float, ...] | None) -> float | None:
    return None if values is None else condition_number(torch.tensor(values, dtype=torch.float64))
