# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations, found without data: what layers are given on the family's own latents or trajectories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..core.modes import evaluating
from .calibration import calibration_passes
from .config import QuantizeConfig
from .int8 import LEVELS, range_codes


_KEPT = 2**13  # inputs of a layer and batch that are looked at; extremes are those of all
_OUTERMOST = 1e-4  # share of inputs that "percentile" cuts off, on both sides together
_SHARES = [1 - 0.05 * i for i in range(18)]  # of the range that "mse" tries, each side by itself


class Observed:
    """Inputs of one layer: extremes of all, some values of every batch."""

    def __init__(self) -> None:
        self.low, self.high, self.parts = torch.tensor(0.0), torch.tensor(0.0), []

    def add(self, x: Tensor, bias: Tensor | None = None) -> None:
        """One batch of inputs, any shape; in place of ``integer_product``: None, to compute in floating point."""
        x = x.detach().permute(0, 2, 3, 1) if x.ndim == 4 else x.detach()
        low, high = torch.aminmax(x)
        self.low, self.high = torch.minimum(self.low, low.float().cpu()), torch.maximum(self.high, high.float().cpu())
        flat = x.reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(_KEPT, len(flat)), dtype=torch.float64)  # prime to no pattern
        self.parts.append(flat[places.long().to(flat.device)].float().cpu())

    def pre_hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.add(args[0])

    def range(self, kind: str) -> tuple[Tensor, Tensor]:
        """Least and greatest value that are not clipped."""
        if kind == "minmax":
            return self.low, self.high
        values = torch.cat(self.parts)
        if kind == "percentile":
            count = max(1, int(len(values) * _OUTERMOST / 2))
            ordered = values.sort().values
            return ordered[count - 1], ordered[-count]
        return self._least_error(values)

    def _least_error(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """First the upper end, then the lower, then the upper again."""
        low, high = self.low, self.high
        for _ in range(2):
            high = min((self.high * share for share in _SHARES), key=lambda end: _error(values, low, end))
            low = min((self.low * share for share in _SHARES), key=lambda end: _error(values, end, high))
        return low, high


def _error(values: Tensor, low: Tensor, high: Tensor) -> float:
    scale, zero_point = range_codes(low, high)
    codes = (values / scale).round().add_(zero_point).clamp_(0, LEVELS).sub_(zero_point).mul_(scale)
    return float((codes - values).square().sum())


@contextlib.contextmanager
def observing(model: nn.Module, names: Iterable[str]) -> Iterator[Mapping[str, Observed]]:
    """Collects what the layers of these names are given within the context."""
    observed = {name: Observed() for name in names}
    with contextlib.ExitStack() as undone:
        for name, of_layer in observed.items():
            module = model.get_submodule(name)
            if hasattr(module, "integer_geometry"):  # asks for its product where its inputs are ready
                module.integer_product = of_layer.add
                undone.callback(module.__dict__.pop, "integer_product")
            else:
                undone.enter_context(module.register_forward_pre_hook(of_layer.pre_hook))
        yield observed


@torch.no_grad()
def input_ranges(model: nn.Module, names: Iterable[str], config: QuantizeConfig) -> dict[str, dict[str, Tensor]]:
    """Buffers ``input_scale`` and ``input_zero_point`` of layers by name; the model is run as it is, and not changed.

    Raises:
        ValueError: A layer that is given NaN or infinity.
    """
    with evaluating(model), observing(model, names) as observed:
        for forward in calibration_passes(model, config.activation_inputs):
            forward(model)
    ends = {name: each.range(config.activation_range) for name, each in observed.items()}
    broken = [name for name, pair in ends.items() if not all(torch.isfinite(end) for end in pair)]
    if broken:
        raise ValueError(
            "quantize_: layers are given NaN or infinity while the ranges of activations are found: "
            f"{', '.join(broken[:8])}; nothing was changed. "
            "Skip them (overrides={'NAME': {'activations': None}}), or look at the model's inputs."
        )
    return {name: dict(zip(("input_scale", "input_zero_point"), range_codes(*pair))) for name, pair in ends.items()}
