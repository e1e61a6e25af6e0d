# SPDX-License-Identifier: Apache-2.0
"""The quantizer that transformers calls for ``quant_method: "hf_ganzip"``: for the text encoders of pipelines.

Unlike with diffusers, weights load in full precision first and are quantized together afterwards. Files have codes
under ``NAME.weight``, where a transformers that does not know us looks for the weight: it only warns of an unknown
``quant_method``, but raises on the wrong shape, rather than to start from random weights.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AutoHfQuantizer,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer  # its package may still be loading
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..core.record import RECORD, origin_of
from ..quantization.config import QuantizeConfig
from ..quantization.packed import packed_modules, unpack_module_
from ..quantization.plan import plan_quantization
from ..quantization.quantize import KEEPERS, Keeper, apply_plan_, quantization_report
from ..quantization.report import QuantizeReport
from .config import QUANT_METHODS, GanzipConfig, as_ganzip, merge_strictly_
from .packed_model import (
    allocate_packed_layers_,
    allow_casting_,
    finish_config,
    refuse_disk,
    refuse_fused,
    verify_packed_layers,
)


class TransformersGanzipConfig(GanzipConfig, QuantizationConfigMixin):
    """:class:`~hf_ganzip.GanzipConfig` as transformers knows it; both libraries accept either."""


class GanzipHfQuantizer(HfQuantizer):
    """Quantizes a transformers model after its weights were loaded, or restores packed weights."""

    is_trainable = True  # adapters beside packed layers
    is_compileable = True

    def __init__(self, quantization_config: GanzipConfig | QuantizeConfig, **kwargs: Any):
        from transformers.modeling_utils import PreTrainedModel  # which imports this module

        config = as_ganzip(quantization_config)
        super().__init__(config, **kwargs)
        allow_casting_(PreTrainedModel, "half", "float")
        if not self.pre_quantized:
            self.quantization_config = config.unused()
        self.report: QuantizeReport | None = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        refuse_disk(device_map)

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        if not self.pre_quantized:
            plan_quantization(model, self.quantization_config.quantize_config)  # fails early
            return
        if self.quantization_config.compute is not None:
            allocate_packed_layers_(model, self.quantization_config, _dtypes_of(model).__getitem__)
        packed = packed_modules(model)
        for module in packed.values():
            module._is_hf_initialized = True
        weights = {f"{name}.weight" for name in packed}  # tied ones are stored with each of their layers
        tied = model.all_tied_weights_keys.items()
        model.all_tied_weights_keys = {to: source for to, source in tied if not weights & {to, source}}

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        if self.pre_quantized:
            _narrow_buffers_(model)
            verify_packed_layers(model, self.quantization_config)
        else:
            config = self.quantization_config.quantize_config
            plan = plan_quantization(model, config)
            self.report = quantization_report(model, plan, apply_plan_(model, plan, config))
            finish_config(model, self.quantization_config, origin_of(model))
        model.config.quantization_config = self.quantization_config

    def _dequantize(self, model: nn.Module, dtype: Any = None) -> nn.Module:
        for module in packed_modules(model).values():
            unpack_module_(module)
        return model

    def get_weight_conversions(self) -> list[Any]:
        from transformers.core_model_loading import WeightRenaming  # its package may still be loading above

        if not self.pre_quantized:
            return []
        names = "|".join(map(re.escape, self.quantization_config.layers))
        return [WeightRenaming(rf"^({names})\.weight$", r"\1.weight_codes")]  # codes of older folders have their name

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        refuse_fused(model.state_dict())
        codes = {f"{name}.weight_codes": f"{name}.weight" for name in packed_modules(model)}
        return {codes.get(name, name): tensor for name, tensor in model.state_dict().items()}, {}

    def is_serializable(self) -> bool:
        return True


def _dtypes_of(model: nn.Module) -> dict[str, torch.dtype]:
    """Name of a layer -> dtype of its weight: float32 where products in half precision would overflow."""
    always, in_half = (set(getattr(model, f"_keep_in_fp32_modules{end}", None) or ()) for end in ("_strict", ""))
    kept = {torch.float16: always | in_half, torch.bfloat16: always}
    return {
        name: torch.float32 if kept.get(weight.dtype, set()) & set(name.split(".")) else weight.dtype
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor)
    }


def _narrow_buffers_(model: nn.Module) -> None:
    """Give packed buffers their dtypes: transformers widens some layers to float32, scales too, which is exact."""
    for module in packed_modules(model).values():
        for name, (_, dtype) in module.packed_layout.buffers.items():
            module._buffers[name] = module._buffers[name].to(dtype)


def attach(model: nn.Module, config: QuantizeConfig) -> None:
    """Make a transformers model that was quantized in memory savable: ``save_pretrained`` writes the packed form."""
    ganzip = TransformersGanzipConfig.of(config)
    finish_config(model, ganzip, origin_of(model))
    model.hf_quantizer = GanzipHfQuantizer(ganzip, pre_quantized=True)
    model.is_quantized = True
    model.quantization_method = ganzip.quant_method
    model.config.quantization_config = ganzip


def detach(model: nn.Module) -> None:
    """Undo :func:`attach` after the packed layers were unpacked."""
    model.hf_quantizer = None
    model.is_quantized = False
    setattr(model, RECORD, model.config.quantization_config.record)
    del model.config.quantization_config


def register() -> None:
    """Make transformers know ``quant_method: "hf_ganzip"``, and "ganzip" of older folders; harmless when repeated.

    Raises:
        RuntimeError: Another package took a name.
    """
    for name in QUANT_METHODS:
        known = AUTO_QUANTIZATION_CONFIG_MAPPING.get(name)
        if known is None:
            register_quantization_config(name)(TransformersGanzipConfig)
            register_quantizer(name)(GanzipHfQuantizer)
        elif known is not TransformersGanzipConfig:
            raise RuntimeError(f"another package has registered the quantization method {name!r} with transformers.")
    merge_strictly_(AutoHfQuantizer)


KEEPERS["transformers.modeling_utils.PreTrainedModel"] = Keeper(attach, detach)
register()
