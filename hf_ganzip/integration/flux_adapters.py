# SPDX-License-Identifier: Apache-2.0
"""Adapters of Flux on packed layers: diffusers' loader looks up the shapes of weights in the state dict, where packed
layers have codes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization.packed import packed_modules


def register() -> None:
    """Let ``load_lora_weights`` of Flux pipelines see the shapes of packed weights; harmless when repeated."""
    from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin

    method = getattr(getattr(FluxLoraLoaderMixin, "_maybe_expand_lora_state_dict", None), "__func__", None)
    if method is None or hasattr(method, "of_hf_ganzip"):  # None: a diffusers that has no use for it
        return

    @functools.wraps(method)
    def expand(cls: type, transformer: nn.Module, lora_state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return method(cls, _WithShapes(transformer), lora_state_dict)

    expand.of_hf_ganzip = True
    FluxLoraLoaderMixin._maybe_expand_lora_state_dict = classmethod(expand)


class _WithShapes:
    """A model whose state dict has, for every packed weight, a tensor of its shape and device that takes no memory."""

    def __init__(self, model: nn.Module):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def state_dict(self) -> dict[str, Tensor]:
        shapes = {
            f"{name}.weight": torch.zeros((), device=module.weight_codes.device).expand(module.packed_layout.shape)
            for name, module in packed_modules(self._model).items()
        }
        return self._model.state_dict() | shapes
