# SPDX-License-Identifier: Apache-2.0
"""Second-order rounding (GPTQ) with curvature from the model's own outputs, without data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...core.modes import evaluating, only_gradients_of
from ...families.passes import Calibration
from ..calibration import CalibrationTask, Rounder, channels_first
from ..grid import QuantizedRows, nearest_codes
from ..rotation import rotated_curvature
from .base import base_method


@dataclass(frozen=True)
class GPTQ:
    r"""Round one column of weights after the other; columns that are still to come compensate the error of each.

    The curvature of a layer is :math:`H = E[v v^T] + d\,\mathrm{mean}(\mathrm{diag}) I` over rows v of weight
    gradients of :math:`\langle r, f(x) \rangle` with random signs r: the Gauss-Newton matrix of the model's output,
    shared by the layer's output channels. It needs no access to the layer's inputs, so that modulated and transposed
    convolutions are layers like any other.

    Args:
        base: Name or object of the method that chooses scales and levels.
        batches: Number of forward and backward passes.
        batch_size: Latents (or noisy images) in each.
        damping: d.
        seed: Of inputs and signs.
        inputs: Function (model, batch_size, seed) -> iterator of functions model -> output, instead of the model's own
            inputs.
        progress: Show a progress bar.

    Raises:
        ValueError: Outputs or gradients that are not finite.

    Source:
        Frantar et al., "GPTQ", algorithm 1; Hubara et al. for the calibrated second-order view.
    """

    base: Any = "mse_clip"
    batches: int = 256
    batch_size: int = 4
    damping: float = 0.03
    seed: int = 0
    inputs: Calibration | None = None
    progress: bool = field(default=True, metadata={"recorded": False})

    def __call__(self, rows: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32) -> QuantizedRows:
        """Rounding to nearest, the start of :meth:`calibrate`."""
        return base_method(self.base)(rows, bits, scale_dtype)

    def calibrate(self, task: CalibrationTask) -> tuple[dict[str, QuantizedRows], dict[str, Tensor]]:
        """Codes of every layer of the task, by name; no other parameter changes."""
        rounded = self.rounder(task)
        names = tqdm(task.own, desc="gptq: round", unit="layer", disable=not self.progress)
        return {name: rounded(name, task.start[name], task.settings[name].bits) for name in names}, {}

    def rounder(self, task: CalibrationTask) -> Rounder:
        """Function (name, start, bits) -> codes of a layer of the task on the levels of ``start``."""
        model = task.working_model()
        curvatures = self._curvatures(task, model)

        def rounded(name: str, start: QuantizedRows, bits: int) -> QuantizedRows:
            module, curvature = model.get_submodule(name), curvatures[name]
            weight = start.target(channels_first(module, module.weight.detach()))
            if start.rotation and curvature is not None:
                curvature = rotated_curvature(curvature, start.rotation)
            return compensated(weight.flatten(1), start, bits, curvature)

        return rounded

    def _curvatures(self, task: CalibrationTask, model: nn.Module) -> dict[str, Tensor]:
        """Damped curvature (C, C) float64 of every layer, C weights per output channel."""
        weights = {name: model.get_submodule(name).weight for name in task.own}
        sums: dict[str, Any] = dict.fromkeys(task.own, 0.0)
        batches = islice(task.batches(self.inputs, self.batch_size, self.seed), self.batches)
        signs = torch.Generator().manual_seed(self.seed)
        with only_gradients_of(weights.values(), model), evaluating(model):
            for forward in tqdm(batches, "gptq: curvature", self.batches, unit="batch", disable=not self.progress):
                output = forward(model)
                sign = torch.randint(2, output.shape, generator=signs).to(output) * 2 - 1
                gradients = torch.autograd.grad(output, list(weights.values()), sign, allow_unused=True)
                for name, gradient in zip(weights, gradients):
                    if gradient is not None:
                        rows = channels_first(model.get_submodule(name), gradient).flatten(1).float()
                        sums[name] = sums[name] + (rows.t() @ rows)
        return {name: self._damped(name, total) for name, total in sums.items()}

    def _damped(self, name: str, total: Any) -> Tensor | None:
        trace = float(total.diagonal().sum()) if isinstance(total, Tensor) else 0.0
        if not math.isfinite(trace):
            raise ValueError(
                f"gptq: the curvature of {name} is not finite: the model's output or its gradients are NaN or "
                "infinite; nothing was changed. Look at the model's outputs, and at `inputs`."
            )
        if not trace > 0:
            return None  # the layer does not move the output
        total = total.double()
        level = self.damping * total.diagonal().mean()
        return total + level * torch.eye(len(total), dtype=torch.float64, device=total.device)


def compensated(weight: Tensor, start: QuantizedRows, bits: int, curvature: Tensor | None) -> QuantizedRows:
    """Codes of ``weight`` (O, C) on the levels of ``start``, rounded column by column with error compensation."""
    if curvature is None:
        return start
    outputs, count = weight.shape
    order = curvature.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)

    def per_weight(numbers: Tensor) -> Tensor:  # (R, 1) -> (O, C) in rounding order
        return numbers.float().expand(-1, outputs * count // len(numbers)).reshape(outputs, count)[:, order]

    scale = per_weight(start.scale)
    offset = None if start.offset is None else per_weight(start.offset)
    left = weight.float()[:, order].clone()
    codes = torch.empty(outputs, count, dtype=torch.int8, device=weight.device)
    levels = {"level_offset": start.level_offset, "codebook": start.codebook}
    for i in range(count):
        s, o = scale[:, i : i + 1], None if offset is None else offset[:, i : i + 1]
        code = nearest_codes(left[:, i : i + 1], s, bits, offset=o, **levels)
        value = QuantizedRows(code, s, start.level_offset, start.codebook, o).values()
        codes[:, i] = code[:, 0]
        error = (left[:, i : i + 1] - value) / factor[i, i]
        left[:, i + 1 :] -= error * factor[i, i + 1 :]
    restored = torch.empty_like(codes)
    restored[:, order] = codes
    return dataclasses.replace(start, codes=restored.reshape(start.codes.shape))
