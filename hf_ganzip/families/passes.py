# SPDX-License-Identifier: Apache-2.0
"""What calibrates a model: passes, which run it forward on inputs of their own; those of any model, recorded while a
user's own code runs it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


Pass = Callable[[nn.Module], Tensor]  # the model -> its output (B, ...), the same each time
Calibration = Callable[[nn.Module, int, int], Iterator[Pass]]  # (model, batch size, seed) -> endless passes


def recorded_inputs(model: nn.Module, run: Callable[[], Any]) -> Calibration:
    """What ``model`` is given while ``run()`` runs, as calibration inputs.

    For ``gptq``, ``latent_distill`` and :func:`~hf_ganzip.sensitivity`.

    Args:
        model: Any module, for example the denoiser of a pipeline.
        run: Runs it; its result is ignored.

    Returns:
        Function (model, batch size, seed) -> endless forward passes in random order, each with the whole batch of the
        recorded one: ``batch_size`` is that of ``run``, whatever is asked for.

    Raises:
        ValueError: ``run()`` did not run the model.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> inputs = recorded_inputs(model, lambda: model(torch.ones(5, 3)))
        >>> next(inputs(model, 1, 0))(model).shape
        torch.Size([5, 2])
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    with hook, torch.no_grad():
        run()
    if not calls:
        raise ValueError(f"recorded_inputs: the {type(model).__name__} was not run; `run` must call this very model.")

    def passes(_: nn.Module, batch_size: int, seed: int) -> Iterator[Pass]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for index in torch.randperm(len(calls), generator=generator).tolist():
                args, kwargs = calls[index]
                yield functools.partial(_output, args=args, kwargs=kwargs)

    return passes


def _output(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    output = model(*args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]
