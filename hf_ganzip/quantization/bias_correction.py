# SPDX-License-Identifier: Apache-2.0
"""Biases that take the mean of what rounding adds to the outputs of their layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..core.modes import evaluating
from .calibration import TRANSPOSED, calibration_passes
from .config import QuantizeConfig
from .packed import packed_modules


_ADDS_BIAS_LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@torch.no_grad()
def corrected_biases(
    model: nn.Module, original: nn.Module, config: QuantizeConfig, tuned: Collection[str] = ()
) -> dict[str, Tensor]:
    """Biases that take the mean of what packed layers deviate from the original's, over inputs and places.

    Both are given what the quantized model computes, so that a layer takes over no error of those before it; all
    layers are measured in one pass.

    Args:
        model: The quantized model; not changed.
        original: The model in full precision; not changed.
        config: ``activation_inputs`` are run; None: the family's own latents or trajectories.
        tuned: Names of parameters that a method has learned already; they stay.

    Returns:
        New biases (C_out,), by parameter name.

    Raises:
        ValueError: A model that has no inputs of its own, and none given, or a layer whose outputs are NaN or infinite.

    Source:
        Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, section 4.2, with
        measured means.
    """
    means: dict[str, list[Tensor]] = {}

    def measure(name: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        away = original.get_submodule(name)(*args, **kwargs).double() - output.double()
        channels = away if isinstance(module, nn.Linear) else away.movedim(1, -1)
        means.setdefault(name, []).append(channels.flatten(0, -2).mean(0))

    with evaluating(model), evaluating(original), contextlib.ExitStack() as hooks:
        for name, module in packed_modules(model).items():
            if isinstance(module, _ADDS_BIAS_LAST) and module.bias is not None and f"{name}.bias" not in tuned:
                hook = functools.partial(measure, name)
                hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        for forward in calibration_passes(model, config.activation_inputs):
            forward(model)
    shifts = {name: torch.stack(found).mean(0) for name, found in means.items()}
    broken = [name for name, shift in shifts.items() if not torch.isfinite(shift).all()]
    if broken:
        raise ValueError(
            f"quantize_: outputs are NaN or infinite while biases are corrected: {', '.join(broken[:8])}; nothing was "
            "changed. Look at the model's inputs."
        )
    biases = {name: model.get_parameter(f"{name}.bias") for name in shifts}
    return {f"{name}.bias": bias + shifts[name].to(bias) for name, bias in biases.items()}
