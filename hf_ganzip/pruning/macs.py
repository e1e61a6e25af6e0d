# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulate operations by the conventions of the pruning papers, from the shapes of weights alone.

One operation per use of a weight: a weight of a convolution or of a Fourier input is used once at every position of
its output, one of a transposed, upsampling or modulated convolution at every position of its input, one of a linear
layer once a row. Noise, demodulation, filters and products of activations (attention) do not count. Biases and norms
count one addition and two operations a value for diffusion models, and not at all for GANs: the tables of the papers
were made so. ``hf_ganzip.evaluation.cost`` measures what really runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.modes import evaluating, watching
from ..families import example_inputs, family_of
from ..models.stylegan2_layers import EqualizedConv2d
from ..models.stylegan3_layers import FourierInput


_AT_OUTPUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, FourierInput)


def count_macs(model: nn.Module) -> int:
    """Operations of one forward pass of one sample, on the example inputs of the model's family.

    Args:
        model: A model of a known family, in full precision.

    Raises:
        ValueError: A model of no family.

    Source:
        Singular Value Scaling and CAGAN, code of the tables' FLOPs; Diff-Pruning, counter of torch-pruning.
    """
    return macs_of_shapes(weight_uses(model), {name: tensor.shape for name, tensor in model.named_parameters()})


def weight_uses(model: nn.Module) -> dict[str, int]:
    """How often a forward pass of a sample uses each entry of every tensor that counts, by name, whatever the widths.

    Raises:
        ValueError: A model of no family.
    """
    args, kwargs = example_inputs(model)
    found: dict[str, int] = {}

    def count(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for leaf, uses in _uses(module, args[0], output[0] if isinstance(output, tuple) else output).items():
            found[f"{name}.{leaf}"] = found.get(f"{name}.{leaf}", 0) + uses

    weighted = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and not isinstance(module, nn.Embedding)
    }
    with torch.no_grad(), evaluating(model), watching(weighted, count):
        model(*args, return_dict=False, **kwargs)
    samples, vectors = len(args[0]), family_of(model).counts_vectors  # type: ignore[union-attr]
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    return {
        name: uses // samples for name, uses in found.items() if name in shapes and (vectors or len(shapes[name]) >= 2)
    }


def _uses(module: nn.Module, given: Tensor, made: Tensor) -> dict[str, int]:
    if isinstance(module, nn.Linear) or module.weight.ndim == 2 and not isinstance(module, FourierInput):
        return {"weight": given.numel() // given.shape[-1], "bias": given.shape[0]}
    forward = isinstance(module, _AT_OUTPUT) or isinstance(module, EqualizedConv2d) and module.resample != "up"
    positions = made if forward else given
    uses = positions.shape[0] * math.prod(positions.shape[2:])
    if isinstance(module, nn.LayerNorm):
        uses = given.numel() // given.shape[-1]
    return {"weight": uses, "bias": uses}


def macs_of_shapes(uses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Operations of a model with tensors of these shapes."""
    return sum(count * math.prod(shapes[name]) for name, count in uses.items())
