# SPDX-License-Identifier: Apache-2.0
"""Adapters on packed layers: diffusers' loader of Flux looks up the shapes of weights in the state dict, where packed
layers have codes; peft's ``fuse_lora`` writes into weights, where they keep an adapter beside their codes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization.fused import fuse_, unfuse_
from ..quantization.packed import PackedWeightMixin, packed_modules


def show_shapes_to_flux_(loaders: ModuleType) -> None:
    """Let ``load_lora_weights`` of Flux pipelines (``diffusers.loaders.lora_pipeline``) see the shapes of packed
    weights; harmless when repeated.
    """
    mixin = loaders.FluxLoraLoaderMixin
    method = getattr(getattr(mixin, "_maybe_expand_lora_state_dict", None), "__func__", None)
    if method is None or hasattr(method, "of_hf_ganzip"):  # None: a diffusers that has no use for it
        return

    @functools.wraps(method)
    def expand(cls: type, transformer: nn.Module, lora_state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return method(cls, _WithShapes(transformer), lora_state_dict)

    expand.of_hf_ganzip = True
    mixin._maybe_expand_lora_state_dict = classmethod(expand)


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


def fuse_into_packed_layers_(layer: ModuleType) -> None:
    """Let the adapter layers of peft, ``peft.tuners.lora.layer``, fuse into packed layers; harmless when repeated."""
    for cls in (layer.Linear, layer._ConvNd):
        if not hasattr(cls.merge, "of_hf_ganzip"):
            cls.merge, cls.unmerge = _merging(cls.merge), _unmerging(cls.unmerge)


def _merging(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def merge(self: Any, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> None:
        from peft.tuners.tuners_utils import check_adapters_to_merge

        base = self.get_base_layer()
        if not isinstance(base, PackedWeightMixin):
            return method(self, safe_merge, adapter_names)
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.lora_A]
        if not all(_is_plain(self, base, name) for name in names):
            return method(self, safe_merge, adapter_names)  # which writes into the weight, and is told why not to
        for name in names:
            up = self.lora_B[name].weight.detach().flatten(1).float() * self.scaling[name]
            fuse_(base, name, up, self.lora_A[name].weight.flatten(1))
            self.merged_adapters.append(name)

    merge.of_hf_ganzip = True
    return merge


def _unmerging(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def unmerge(self: Any) -> None:
        base = self.get_base_layer()
        if not isinstance(base, PackedWeightMixin) or not self.merged:
            return method(self)
        while self.merged_adapters:
            unfuse_(base, self.merged_adapters.pop())

    return unmerge


def _is_plain(layer: Any, base: Any, name: str) -> bool:
    """Whether an adapter does nothing but to add a product of two matrices to the weight."""
    other = name in getattr(layer, "lora_variant", ()) or layer.use_dora.get(name) or layer.lora_bias.get(name)
    return not (other or getattr(layer, "fan_in_fan_out", False) or getattr(base, "groups", 1) > 1)
