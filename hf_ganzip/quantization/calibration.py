# SPDX-License-Identifier: Apache-2.0
"""What calibrated methods share: the model with other weights in it, and batches that need no data."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ..families import family_of
from ..families.passes import Calibration, Pass
from .folding import fold_rest_, is_parametrized, remove_parametrization_
from .grid import QuantizedRows
from .packed import packed_modules, unpack_module_


_PASSES = 20
_BATCH_SIZE = 16  # of a model of no family
Rounder = Callable[[str, QuantizedRows, int], QuantizedRows]  # (name, start, bits) -> codes, errors compensated
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class CalibrationTask:
    """What a calibrated method gets.

    Args:
        model: The model in full precision; not to be changed.
        settings: Settings of every weight that is quantized, by module name.
        start: Every weight quantized by itself; calibrated methods start from it.
        own: Names of the weights that the method is to calibrate; the others stay as in ``start``.
    """

    model: nn.Module
    settings: Mapping[str, Any]
    start: Mapping[str, QuantizedRows]
    own: list[str]

    def working_model(self) -> nn.Module:
        """The model whose weights can be substituted: a copy if some are packed or computed from others.

        The copy of a packed model has the parameters that it has once it is dequantized.
        """
        modules = [self.model.get_submodule(name) for name in self.settings]
        model, packed = self.model, packed_modules(self.model)
        if packed or any(is_parametrized(module) for module in modules):
            model = copy_of(model)
            for module in packed_modules(model).values():
                unpack_module_(module)
            for name in self.settings:
                remove_parametrization_(model.get_submodule(name))
            if packed:
                fold_rest_(model)
        return model

    def batches(
        self, inputs: Calibration | None, batch_size: int, seed: int, *, mixed: bool = False
    ) -> Iterator[Pass]:
        """Endless forward passes ``model -> output`` (B, ...), each repeatable, of ``inputs`` or of the model's own
        inputs, ``mixed`` for training.

        Raises:
            ValueError: The model belongs to no family with such inputs.
        """
        if inputs is not None:
            return inputs(self.model, batch_size, seed)
        family = family_of(self.model)
        if family is None or family.calibration is None:
            raise ValueError(
                f"{type(self.model).__name__} has no calibration inputs; give the method `inputs`, a function "
                "(model, batch_size, seed) -> iterator of functions model -> output tensor; "
                "hf_ganzip.families.recorded_inputs(model, run) makes one of what the model is given while run() runs."
            )
        calibration = (mixed and family.mixed) or family.calibration
        return calibration(self.model, batch_size, seed)


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model with old-style norms, which leave weights with their graphs."""
    for module in model.modules():
        if "weight" in module.__dict__:
            module.__dict__["weight"] = module.__dict__["weight"].detach()
    return copy.deepcopy(model)


def calibration_passes(model: nn.Module, inputs: Calibration | None = None) -> Iterator[Pass]:
    """A fixed number of repeatable passes ``model -> output`` of ``inputs``, or of the family's own: one for every
    timestep of a trajectory.

    Raises:
        ValueError: The model belongs to no family with such inputs.
    """
    family = family_of(model)
    size = family.samples_together if family else _BATCH_SIZE
    return islice(CalibrationTask(model, {}, {}, []).batches(inputs, size, 0), _PASSES)


def channels_first(module: nn.Module, weight: Tensor) -> Tensor:
    """``weight`` of ``module`` with the output channels first, or such a one back in the module's order."""
    return weight.transpose(0, 1) if isinstance(module, TRANSPOSED) else weight


def expanded(module: nn.Module, quantized: QuantizedRows) -> Tensor:
    """Dequantized weight in the layout and dtype of the module's own."""
    shape = channels_first(module, module.weight).shape
    return channels_first(module, quantized.weight(shape)).to(module.weight.dtype)


@contextlib.contextmanager
def substituted(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Compute with other tensors in place of parameters, by parameter name, within the context."""
    saved = []
    try:
        for name, tensor in tensors.items():
            owner, _, leaf = name.rpartition(".")
            parameters = model.get_submodule(owner)._parameters
            saved.append((parameters, leaf, parameters[leaf]))
            parameters[leaf] = tensor  # where models look for their dtype and device
        yield
    finally:
        for parameters, leaf, parameter in saved:
            parameters[leaf] = parameter
