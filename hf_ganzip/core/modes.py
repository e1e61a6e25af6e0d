# SPDX-License-Identifier: Apache-2.0
"""What holds for a model for a while: evaluation mode, which parameters take gradients, who looks at its modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the context; afterwards every module has the mode it had, whatever happened."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def only_gradients_of(tensors: Iterable[Tensor], model: nn.Module) -> Iterator[None]:
    """Within the context no parameters of a model but ``tensors`` take gradients; afterwards those that did before."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield
    finally:
        for parameter, value in required.items():
            parameter.requires_grad_(value)


@contextlib.contextmanager
def watching(
    modules: Mapping[str, nn.Module], look: Callable[[str, nn.Module, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Within the context, ``look(name, module, args, output)`` after each forward pass of a module."""
    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(functools.partial(look, name)))
        yield
