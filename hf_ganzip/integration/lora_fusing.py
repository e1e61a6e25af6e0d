# SPDX-License-Identifier: Apache-2.0
"""``fuse_lora`` on packed layers: peft writes into weights, packed layers keep an adapter beside their codes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..quantization.fused import fuse_, unfuse_
from ..quantization.packed import PackedWeightMixin


def register() -> None:
    """Let the adapter layers of peft fuse into packed layers; harmless when repeated."""
    from peft.tuners.lora import layer

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
