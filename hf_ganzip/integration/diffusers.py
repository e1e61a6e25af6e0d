# SPDX-License-Identifier: Apache-2.0
"""The quantizer that diffusers calls for ``quant_method: "hf_ganzip"``: the only file that
knows diffusers' private hooks.

diffusers has no public way to register a quantizer: :func:`register` writes the two dicts of
``diffusers.quantizers.auto``. ``tests/test_integration_contract.py`` fails when a new diffusers moves what is used here.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from torch import Tensor, nn

from ..alignment import align_
from ..quantization.chunks import all_finite
from ..quantization.config import QuantizeConfig
from ..quantization.folding import is_parametrized
from ..quantization.packed import (
    BUFFERS,
    PackedWeightMixin,
    pack_module_,
    packed_modules,
    unpack_module_,
)
from ..quantization.plan import plan_quantization
from ..quantization.quantize import apply_plan_, quantization_report
from ..quantization.report import QuantizeReport
from ..quantization.rows import quantize_weight
from ..record import RECORD, compression_of, origin, origin_of, recorded_steps
from ..structure import apply_structure_, structure_of
from .config import QUANT_METHODS, GanzipConfig, as_ganzip, merge_strictly_
from .packed_model import allocate_packed_layers_, allow_casting_, finish_config, refuse_disk, verify_packed_layers


class GanzipQuantizer(DiffusersQuantizer):
    """Quantizes while full-precision weights load, or restores packed ones; strict in both cases."""

    use_keep_in_fp32_modules = True

    def __init__(self, quantization_config: GanzipConfig | QuantizeConfig, **kwargs):
        from diffusers import ModelMixin  # which imports this module

        config = as_ganzip(quantization_config)
        super().__init__(config, **kwargs)
        allow_casting_(ModelMixin, "to", "half", "float")
        self.pre_quantized = self.pre_quantized and not config.pending
        if not self.pre_quantized:
            self.quantization_config = config.unused()
        self.report: QuantizeReport | None = None
        self._plan = None
        self._in_memory = False
        self._sqnr_db: dict[str, float | None] = {}
        self._problems: list[str] = []
        self._loaded_keys: set[str] = set()
        self._base_model = ""

    # -- environment --------------------------------------------------------------------------------------------------

    def validate_environment(self, *args, device_map=None, **kwargs) -> None:
        refuse_disk(device_map)

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        self.dtype = torch_dtype or torch.float32
        return self.dtype

    # -- loading ------------------------------------------------------------------------------------------------------

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        self._loaded_keys = set(loaded_keys)
        self._base_model = origin(Path(checkpoint_files[0]).parent) if checkpoint_files else ""
        return loaded_keys

    def _process_model_before_weight_loading(
        self, model: nn.Module, device_map=None, keep_in_fp32_modules=(), **kwargs
    ) -> None:
        self._keep_in_fp32 = set(keep_in_fp32_modules or ())
        if self.quantization_config.structure is not None:
            apply_structure_(model, self.quantization_config.structure)
        if self.pre_quantized:
            allocate_packed_layers_(model, self.quantization_config, self._dtype_of)
        else:
            self._plan = plan_quantization(model, self.quantization_config.quantize_config)
            # Calibrated methods, ranges and folded weights need the whole model; all others are quantized tensor by tensor.
            self._in_memory = any(
                hasattr(settings.method, "calibrate")
                or settings.activations == "static"
                or is_parametrized(model.get_submodule(name))
                for name, settings in self._plan.settings.items()
            )
        self._check_keys(model)

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
        if self.pre_quantized:
            return tensor in BUFFERS and isinstance(model.get_submodule(module_name), PackedWeightMixin)
        return tensor == "weight" and module_name in self._plan.settings and not self._in_memory

    def check_quantized_param_shape(self, param_name: str, current: Tensor, loaded: Tensor) -> bool:
        raise ValueError(
            f"{param_name} has shape {tuple(loaded.shape)} in the checkpoint; config.json asks for {tuple(current.shape)}."
        )

    def create_quantized_param(
        self, model, param_value, param_name: str, target_device, state_dict=None, unexpected_keys=None, **kwargs
    ) -> None:
        module_name, _, tensor = param_name.rpartition(".")
        module = model.get_submodule(module_name)
        stored = state_dict[param_name].to(target_device)  # before diffusers cast it to the load dtype
        if self.pre_quantized:
            expected = module._buffers[tensor].dtype
            if stored.dtype != expected:
                raise ValueError(f"{param_name} is {stored.dtype} in the checkpoint; allowed is {expected}.")
            module._buffers[tensor] = stored
            return
        if not all_finite(stored):
            self._problems.append(f"{param_name} holds NaN or infinity")
            return
        weight = quantize_weight(module, self._plan.settings[module_name], stored)
        self._sqnr_db[module_name] = weight.sqnr_db
        compute = self.quantization_config.quantize_config.compute
        pack_module_(module, weight.layout, weight.buffers, dtype=self._dtype_of(module_name), compute=compute)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs) -> nn.Module:
        if self._problems:
            raise ValueError(f"{type(model).__name__}: {'; '.join(self._problems)}; nothing was quantized.")
        if self.pre_quantized:
            verify_packed_layers(model, self.quantization_config)
        else:
            if self._in_memory:
                self._sqnr_db = apply_plan_(model, self._plan, self.quantization_config.quantize_config)
            self.report = quantization_report(model, self._plan, self._sqnr_db)
            finish_config(model, self.quantization_config, self._base_model)
        align_(model)
        if self.quantization_config.quantize_config is None:
            model.is_quantized = False  # only pruned: trained, cast and moved like any other model
        model.register_to_config(quantization_config=self.quantization_config)
        return model

    # -- the rest of the protocol -------------------------------------------------------------------------------------

    def _dequantize(self, model: nn.Module) -> nn.Module:
        for module in packed_modules(model).values():
            unpack_module_(module)
        _forget_quantization(model)
        return model

    def get_state_dict_and_metadata(self, state_dict, safe_serialization: bool = False):
        lost = [name for name in self.quantization_config.layers or () if f"{name}.weight_codes" not in state_dict]
        if lost:
            raise ValueError(
                f"save_pretrained: packed layers were changed, {lost[0]} first ({len(lost)} in all). Of a model with "
                "adapters save the adapters with save_lora_adapter, and call unload_lora before save_pretrained."
            )
        # A second key beside "format" would come in random order: files would differ from save to save.
        return state_dict, {}

    @property
    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # adapters beside packed layers

    @property
    def is_compileable(self) -> bool:
        return True


def attach(model: nn.Module, config: QuantizeConfig) -> None:
    """Make a diffusers model that was quantized in memory savable: ``save_pretrained`` writes the packed form."""
    ganzip = GanzipConfig.of(config)
    ganzip.structure = _structure(model)
    finish_config(model, ganzip, origin_of(model))
    quantizer = GanzipQuantizer(ganzip, pre_quantized=True)
    quantizer.update_torch_dtype(model.dtype if model.dtype.is_floating_point else None)
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = ganzip.quant_method
    model.register_to_config(quantization_config=ganzip)


def detach(model: nn.Module) -> None:
    """Undo :func:`attach` after the packed layers were unpacked."""
    _forget_quantization(model)
    del model.hf_quantizer
    model.is_quantized = False


def attach_structure(model: nn.Module) -> None:
    """Make a pruned model of a diffusers class savable: how it differs from what its config builds goes into its config.

    Raises:
        ValueError: It differs in more than widths.
    """
    with torch.device("meta"):
        reference = type(model).from_config(_own_config(model))
    structure = structure_of(model, reference)
    record = recorded_steps(model)
    if structure["shapes"]:
        model.register_to_config(quantization_config=GanzipConfig(bits=None, structure=structure, record=record))


def register() -> None:
    """Make diffusers know ``quant_method: "hf_ganzip"``, and "ganzip" of older folders; harmless when repeated.

    Where a folder has a config and ``from_pretrained`` is given one, diffusers ignores that: ours merge or raise.

    Raises:
        RuntimeError: Another package took a name.
    """
    for mapping, value in (
        (auto.AUTO_QUANTIZER_MAPPING, GanzipQuantizer),
        (auto.AUTO_QUANTIZATION_CONFIG_MAPPING, GanzipConfig),
    ):
        for name in QUANT_METHODS:
            if mapping.setdefault(name, value) is not value:
                raise RuntimeError(f"another package has registered the quantization method {name!r} with diffusers.")
    merge_strictly_(auto.DiffusersAutoQuantizer)


def build(cls: type, config: dict) -> nn.Module:
    """A model of a diffusers class with fresh weights, in the widths that its saved config says, pruned or not."""
    model = cls.from_config({name: value for name, value in config.items() if name != "quantization_config"})
    saved = config.get("quantization_config")
    saved = saved.to_dict() if isinstance(saved, GanzipConfig) else saved
    if saved and saved.get("quant_method") in QUANT_METHODS and saved.get("structure"):
        apply_structure_(model, saved["structure"])
        # In the order of the model: a set's would change from process to process, and the random numbers with it.
        for name in dict.fromkeys(name.rpartition(".")[0] for name in saved["structure"]["shapes"]):
            model.get_submodule(name).reset_parameters()
        model.register_to_config(
            quantization_config=GanzipConfig(bits=None, structure=saved["structure"], record=saved.get("record"))
        )
    return model


def _own_config(model: nn.Module) -> dict:
    return {name: value for name, value in model.config.items() if name != "quantization_config"}


def _structure(model: nn.Module) -> dict | None:
    return (compression_of(model) or {}).get("structure")


def _forget_quantization(model: nn.Module) -> None:
    """A pruned model stays pruned, and the record remains: so do the errors of quantization in the weights."""
    structure, record = _structure(model), recorded_steps(model)
    model._internal_dict = FrozenDict(_own_config(model))
    if structure is None:
        model.register_to_config(**{RECORD: record})
    else:
        model.register_to_config(quantization_config=GanzipConfig(bits=None, structure=structure, record=record))


register()
