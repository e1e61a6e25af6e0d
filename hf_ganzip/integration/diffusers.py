# SPDX-License-Identifier: Apache-2.0
"""The quantizer that diffusers calls for ``quant_method: "hf_ganzip"``; only this file knows its private hooks.

diffusers has no public way to register a quantizer: :func:`register` writes the two dicts of
``diffusers.quantizers.auto``. ``tests/test_integration_contract.py`` fails when a new diffusers moves what is used
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers import auto
from torch import nn

from ..core.record import RECORD, compression_of, origin, origin_of, recorded_steps
from ..quantization.chunks import all_finite
from ..quantization.config import QuantizeConfig
from ..quantization.folding import is_parametrized
from ..quantization.packed import pack_module_
from ..quantization.plan import plan_quantization
from ..quantization.quantize import KEEPERS, Keeper, apply_plan_, quantization_report
from ..quantization.report import QuantizeReport
from ..quantization.rows import quantize_weight
from .config import QUANT_METHODS, GanzipConfig, as_ganzip, merge_strictly_
from .packed_model import finish_config
from .restoring import RestoringQuantizer, drop_auto_map_
from .structure import Structure, apply_structure_, structure_of


class GanzipQuantizer(RestoringQuantizer):
    """Quantizes while full-precision weights load, or restores packed ones; strict in both cases."""

    def __init__(self, quantization_config: GanzipConfig | QuantizeConfig, **kwargs):
        config = as_ganzip(quantization_config)
        super().__init__(config, **kwargs)
        self.pre_quantized = self.pre_quantized and not config.pending
        if not self.pre_quantized:
            self.quantization_config = config.unused()
        self.report: QuantizeReport | None = None
        self._plan = None
        self._in_memory = False
        self._sqnr_db: dict[str, float | None] = {}
        self._problems: list[str] = []
        self._base_model = ""

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        self._base_model = origin(Path(checkpoint_files[0]).parent) if checkpoint_files else ""
        return super().maybe_update_loaded_keys(loaded_keys, checkpoint_files)

    def _prepare(self, model: nn.Module) -> None:
        if self.pre_quantized:
            return super()._prepare(model)
        self._plan = plan_quantization(model, self.quantization_config.quantize_config)
        # Calibrated methods, ranges, biases and folded weights need the whole model; all others are quantized tensor
        # by tensor.
        self._in_memory = self.quantization_config.quantize_config.bias_correction or any(
            hasattr(settings.method, "calibrate")
            or settings.activations == "static"
            or is_parametrized(model.get_submodule(name))
            for name, settings in self._plan.settings.items()
        )

    def check_if_quantized_param(self, model, param_value, param_name: str, state_dict, **kwargs) -> bool:
        if self.pre_quantized:
            return super().check_if_quantized_param(model, param_value, param_name, state_dict, **kwargs)
        module_name, _, tensor = param_name.rpartition(".")
        return tensor == "weight" and module_name in self._plan.settings and not self._in_memory

    def create_quantized_param(
        self, model, param_value, param_name: str, target_device, state_dict=None, unexpected_keys=None, **kwargs
    ) -> None:
        if self.pre_quantized:
            return super().create_quantized_param(model, param_value, param_name, target_device, state_dict)
        module_name = param_name.rpartition(".")[0]
        module = model.get_submodule(module_name)
        stored = state_dict[param_name].to(target_device)
        if not all_finite(stored):
            self._problems.append(f"{param_name} holds NaN or infinity")
            return
        weight = quantize_weight(module, self._plan.settings[module_name], stored)
        self._sqnr_db[module_name] = weight.sqnr_db
        compute = self.quantization_config.compute
        pack_module_(module, weight.layout, weight.buffers, dtype=self._dtype_of(module_name), compute=compute)

    def _finish(self, model: nn.Module) -> None:
        if self._problems:
            raise ValueError(f"{type(model).__name__}: {'; '.join(self._problems)}; nothing was quantized.")
        if self.pre_quantized:
            return super()._finish(model)
        if self._in_memory:
            self._sqnr_db = apply_plan_(model, self._plan, self.quantization_config.quantize_config)
        self.report = quantization_report(model, self._plan, self._sqnr_db)
        finish_config(model, self.quantization_config, self._base_model)

    def _dequantize(self, model: nn.Module) -> nn.Module:
        super()._dequantize(model)
        _forget_quantization(model)
        return model


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
    """Make a pruned model of a diffusers class savable: its config gets what differs from the model that it builds.

    Raises:
        ValueError: It differs in more than widths.
    """
    with torch.device("meta"):
        reference = type(model).from_config(_unquantized(model.config))
    structure = structure_of(model, reference)
    if structure["shapes"]:
        _keep_structure(model, structure, recorded_steps(model))


def register() -> None:
    """Make diffusers know ``quant_method: "hf_ganzip"``, and "ganzip" of older folders; harmless when repeated.

    Where a folder has a config and ``from_pretrained`` is given one, diffusers ignores that: ours merge or raise.

    Raises:
        RuntimeError: Another package took a name.
    """
    mappings = (auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING)
    for mapping, value in zip(mappings, (GanzipQuantizer, GanzipConfig)):
        for name in QUANT_METHODS:
            known = mapping.get(name)
            if known is None or known.__module__.partition(".")[0] in ("diffusers", "diffusers_modules"):
                # In place of a factory that imports us, or of what a standalone file opens its model with.
                mapping[name] = value
            elif known is not value:
                raise RuntimeError(f"another package has registered the quantization method {name!r} with diffusers.")
    merge_strictly_(auto.DiffusersAutoQuantizer)
    drop_auto_map_()


def build(cls: type, config: dict) -> nn.Module:
    """A model of a diffusers class with fresh weights, in the widths that its saved config says, pruned or not."""
    model = cls.from_config(_unquantized(config))
    saved = config.get("quantization_config")
    saved = saved.to_dict() if isinstance(saved, GanzipConfig) else saved
    if saved and saved.get("quant_method") in QUANT_METHODS and saved.get("structure"):
        apply_structure_(model, saved["structure"])
        # In the order of the model: a set's would change from process to process, and the random numbers with it.
        for name in dict.fromkeys(name.rpartition(".")[0] for name in saved["structure"]["shapes"]):
            model.get_submodule(name).reset_parameters()
        _keep_structure(model, saved["structure"], saved.get("record"))
    return model


def _unquantized(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "quantization_config"}


def _structure(model: nn.Module) -> dict | None:
    return (compression_of(model) or {}).get("structure")


def _keep_structure(model: nn.Module, structure: Structure, record: Any) -> None:
    model.register_to_config(quantization_config=GanzipConfig(bits=None, structure=structure, record=record))


def _forget_quantization(model: nn.Module) -> None:
    """A pruned model stays pruned, and the record remains: so do the errors of quantization in the weights."""
    structure, record = _structure(model), recorded_steps(model)
    model._internal_dict = FrozenDict(_unquantized(model.config))
    if structure is None:
        model.register_to_config(**{RECORD: record})
    else:
        _keep_structure(model, structure, record)


KEEPERS["diffusers.models.modeling_utils.ModelMixin"] = Keeper(attach, detach)
register()
