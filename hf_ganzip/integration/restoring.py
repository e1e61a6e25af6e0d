# SPDX-License-Identifier: Apache-2.0
"""Opens packed and pruned models of diffusers, quantizing none: also what standalone files have of our quantizer."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor, nn

from ..core.alignment import align_
from ..core.hub import REMOTE_CODE
from ..quantization.buffers import BUFFERS
from ..quantization.packed import PackedWeightMixin, packed_modules, unpack_module_
from .packed_model import (
    GanzipMethod,
    allocate_packed_layers_,
    allow_casting_,
    refuse_disk,
    refuse_fused,
    verify_packed_layers,
)
from .structure import apply_structure_


FORMAT_VERSION = 1


def check_format(format_version: Any) -> None:
    """Raise ValueError for a folder of a newer format."""
    if format_version != FORMAT_VERSION:
        raise ValueError(
            f"This model was saved in hf_ganzip format {format_version!r}; this hf_ganzip reads format "
            f"{FORMAT_VERSION}. Install a version of hf_ganzip that reads it."
        )


class RestoringQuantizer(DiffusersQuantizer):
    """Restores packed weights and pruned widths; strict.

    The config has ``layers`` (None: only pruned), ``structure`` and ``compute``.
    """

    use_keep_in_fp32_modules = True
    is_serializable = True
    is_trainable = True  # adapters beside packed layers
    is_compileable = True

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        from diffusers import ModelMixin  # which may import this module

        super().__init__(quantization_config, **kwargs)
        allow_casting_(ModelMixin, "to", "half", "float")
        self._loaded_keys: set[str] = set()

    def validate_environment(self, *args, device_map=None, **kwargs) -> None:
        refuse_disk(device_map)

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        self.dtype = torch_dtype or torch.float32
        return self.dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        self._loaded_keys = set(loaded_keys)
        return loaded_keys

    def _process_model_before_weight_loading(
        self, model: nn.Module, device_map=None, keep_in_fp32_modules=(), **kwargs
    ) -> None:
        self._keep_in_fp32 = set(keep_in_fp32_modules or ())
        if self.quantization_config.structure is not None:
            apply_structure_(model, self.quantization_config.structure)
        self._prepare(model)
        self._check_keys(model)

    def _prepare(self, model: nn.Module) -> None:
        if self.quantization_config.compute is not None:
            allocate_packed_layers_(model, self.quantization_config, self._dtype_of)

    def _dtype_of(self, name: str) -> torch.dtype:
        return torch.float32 if self._keep_in_fp32 & set(name.split(".")) else self.dtype

    def _check_keys(self, model: nn.Module) -> None:
        ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
        expected = set(model.state_dict())
        unexpected = {k for k in self._loaded_keys - expected if not any(re.search(pattern, k) for pattern in ignored)}
        missing = expected - self._loaded_keys
        if missing or unexpected:
            raise ValueError(
                f"{type(model).__name__}: the checkpoint does not fit the config: "
                f"missing tensors {sorted(missing)[:5]} ({len(missing)} in all), "
                f"unexpected tensors {sorted(unexpected)[:5]} ({len(unexpected)} in all)."
            )

    def check_if_quantized_param(self, model, param_value, param_name: str, state_dict, **kwargs) -> bool:
        module_name, _, tensor = param_name.rpartition(".")
        return tensor in BUFFERS and isinstance(model.get_submodule(module_name), PackedWeightMixin)

    def check_quantized_param_shape(self, param_name: str, current: Tensor, loaded: Tensor) -> bool:
        raise ValueError(
            f"{param_name} has shape {tuple(loaded.shape)} in the checkpoint; config.json asks for "
            f"{tuple(current.shape)}."
        )

    def create_quantized_param(
        self, model, param_value, param_name: str, target_device, state_dict=None, unexpected_keys=None, **kwargs
    ) -> None:
        module_name, _, tensor = param_name.rpartition(".")
        module = model.get_submodule(module_name)
        stored = state_dict[param_name].to(target_device)  # before diffusers cast it to the load dtype
        expected = module._buffers[tensor].dtype
        if stored.dtype != expected:
            raise ValueError(f"{param_name} is {stored.dtype} in the checkpoint; allowed is {expected}.")
        module._buffers[tensor] = stored

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs) -> nn.Module:
        align_(model)  # before calibration, whose sums then repeat, too
        self._finish(model)
        if self.quantization_config.compute is None:
            model.is_quantized = False  # only pruned: trained, cast and moved like any other model
        model.register_to_config(quantization_config=self.quantization_config)
        return model

    def _finish(self, model: nn.Module) -> None:
        verify_packed_layers(model, self.quantization_config)

    def _dequantize(self, model: nn.Module) -> nn.Module:
        for module in packed_modules(model).values():
            unpack_module_(module)
        return model

    def get_state_dict_and_metadata(self, state_dict, safe_serialization: bool = False):
        lost = [name for name in self.quantization_config.layers or () if f"{name}.weight_codes" not in state_dict]
        if lost:
            raise ValueError(
                f"save_pretrained: packed layers were changed, {lost[0]} first ({len(lost)} in all). Of a model with "
                "adapters save the adapters with save_lora_adapter, and call unload_lora before save_pretrained."
            )
        refuse_fused(state_dict)
        # A second key beside "format" would come in random order: files would differ from save to save.
        return state_dict, {}


class RestoredConfig(QuantizationConfigMixin):
    """``quantization_config`` of a saved folder, as it is there."""

    def __init__(self, format_version: Any = FORMAT_VERSION, **entries: Any) -> None:
        check_format(format_version)
        self.quant_method = GanzipMethod.GANZIP
        self.entries = {name: value for name, value in entries.items() if name != "quant_method"}
        self.layers, self.structure = entries.get("layers"), entries.get("structure")
        self.compute = None if entries.get("bits") is None else entries.get("compute", "packed")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only, as it was read."""
        return {"quant_method": self.quant_method.value, "format_version": FORMAT_VERSION} | self.entries

    def to_diff_dict(self) -> dict[str, Any]:
        """For ``repr``: :meth:`to_dict` without the long tables."""
        return {name: value for name, value in self.to_dict().items() if name not in ("layers", "structure")}


def drop_auto_map_() -> None:
    """Let diffusers read configs without the ``auto_map`` that we publish, of which it warns, and which it would save
    where no module is; harmless when repeated.
    """
    from diffusers.configuration_utils import ConfigMixin

    read = ConfigMixin.extract_init_dict.__func__
    if hasattr(read, "of_hf_ganzip"):
        return

    @functools.wraps(read)
    def read_without(cls, config_dict, **kwargs):
        named = config_dict.get("auto_map")
        if isinstance(named, dict) and str(named.get("AutoModel")).startswith(REMOTE_CODE):
            config_dict = {name: value for name, value in config_dict.items() if name != "auto_map"}
        return read(cls, config_dict, **kwargs)

    read_without.of_hf_ganzip = True
    ConfigMixin.extract_init_dict = classmethod(read_without)


def register_restoring() -> None:
    """Let diffusers open what hf_ganzip saved, unless something does already."""
    from diffusers.quantizers import auto

    drop_auto_map_()
    for name in ("hf_ganzip", "ganzip"):
        auto.AUTO_QUANTIZER_MAPPING.setdefault(name, RestoringQuantizer)
        auto.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(name, RestoredConfig)
