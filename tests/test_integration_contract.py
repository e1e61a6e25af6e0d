# SPDX-License-Identifier: Apache-2.0
"""What hf_ganzip relies on in diffusers beyond its documented API; fails when a new version moves it."""

import inspect

import pytest
from diffusers import ModelMixin
from diffusers.models import model_loading_utils
from diffusers.quantizers import DiffusersAutoQuantizer, DiffusersQuantizer, auto

import hf_ganzip as gz
from hf_ganzip.integration import diffusers as integration
from hf_ganzip.integration.config import QUANT_METHODS

from .conftest import tiny_generator


def test_registries_are_plain_dicts_with_our_entries():
    assert isinstance(auto.AUTO_QUANTIZER_MAPPING, dict) and isinstance(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, dict)
    assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["hf_ganzip"] is gz.GanzipConfig
    for name in QUANT_METHODS:
        assert auto.AUTO_QUANTIZER_MAPPING[name] is integration.GanzipQuantizer
        config = DiffusersAutoQuantizer.from_dict({"quant_method": name, "bits": 3})
        assert isinstance(config, gz.GanzipConfig) and config.quantize_config.bits == 3


def test_registration_is_idempotent_and_refuses_a_foreign_entry(monkeypatch):
    integration.register()
    monkeypatch.setitem(auto.AUTO_QUANTIZER_MAPPING, "hf_ganzip", object)
    with pytest.raises(RuntimeError, match="another package"):
        integration.register()


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_folders_config_and_the_argument_go_through_the_method_that_is_wrapped(library):
    """Its name, its two parameters and the place that calls it; wrapped once, however often it is registered."""
    from transformers.quantizers import auto as transformers_auto

    from hf_ganzip.integration import transformers as transformers_integration

    if library == "diffusers":
        owner, caller, module = DiffusersAutoQuantizer, ModelMixin.from_pretrained, integration
    else:
        owner, caller = transformers_auto.AutoHfQuantizer, transformers_auto.get_hf_quantizer
        module = transformers_integration
    wrapped = owner.merge_quantization_configs
    parameters = list(inspect.signature(wrapped.__wrapped__).parameters)
    assert parameters == ["quantization_config", "quantization_config_from_args"]
    assert f"{owner.__name__}.merge_quantization_configs(" in inspect.getsource(caller)
    module.register()
    assert owner.merge_quantization_configs is wrapped and not hasattr(wrapped.__wrapped__, "__wrapped__")


def test_no_new_abstract_methods():
    hooks = {"_process_model_before_weight_loading", "_process_model_after_weight_loading"}
    assert DiffusersQuantizer.__abstractmethods__ <= hooks | {"is_serializable", "is_trainable"}


def test_every_hook_we_override_exists():
    own = {*vars(integration.GanzipQuantizer), *vars(integration.RestoringQuantizer)}
    own = [name for name in own if not name.startswith("__")]
    private = {"_dtype_of", "_check_keys", "_prepare", "_finish", "use_keep_in_fp32_modules", "_abc_impl"}
    for name in set(own) - private:
        assert hasattr(DiffusersQuantizer, name) or name == "is_compileable", name


def test_loader_call_sites():
    source = inspect.getsource(model_loading_utils.load_model_dict_into_meta)
    for needle in ("check_if_quantized_param", "create_quantized_param", "check_quantized_param_shape"):
        assert needle in source
    source = inspect.getsource(ModelMixin)
    for needle in ("preprocess_model", "postprocess_model", "maybe_update_loaded_keys", "quant_method.value"):
        assert needle in source


HOOKS = (
    "update_torch_dtype",
    "maybe_update_loaded_keys",
    "_process_model_before_weight_loading",
    "create_quantized_param",
    "_process_model_after_weight_loading",
    "get_state_dict_and_metadata",
)


@pytest.mark.parametrize("pre_quantized", [False, True])
def test_hooks_are_called_in_order(tmp_path, monkeypatch, pre_quantized):
    model = tiny_generator()
    if pre_quantized:
        gz.quantize_(model)
    model.save_pretrained(tmp_path / "saved")
    calls = []
    for name in HOOKS:
        original = getattr(integration.GanzipQuantizer, name)

        def recorded(self, *args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(integration.GanzipQuantizer, name, recorded)
    config = None if pre_quantized else gz.GanzipConfig()
    loaded = type(model).from_pretrained(tmp_path / "saved", quantization_config=config)
    loaded.save_pretrained(tmp_path / "again")
    assert list(dict.fromkeys(calls)) == list(HOOKS)


@pytest.mark.parametrize(
    "library, names", [("diffusers", ("to", "half", "float")), ("transformers", ("half", "float"))]
)
def test_casting_asks_whether_a_model_is_quantized(library, names):
    """What allow_casting_ wraps; a method that no longer asks need not be."""
    from transformers import PreTrainedModel

    from hf_ganzip.integration.packed_model import allow_casting_

    cls = ModelMixin if library == "diffusers" else PreTrainedModel
    allow_casting_(cls, *names)
    for name in names:
        wrapped = getattr(cls, name)
        assert 'getattr(self, "is_quantized", False)' in inspect.getsource(wrapped.__wrapped__.__code__)
        allow_casting_(cls, name)
        assert getattr(cls, name) is wrapped


def test_the_loader_of_flux_looks_up_weights_in_the_state_dict():
    """What adapters.py wraps; once, however often it is registered."""
    from diffusers.loaders import lora_pipeline

    from hf_ganzip.integration.adapters import show_shapes_to_flux_

    FluxLoraLoaderMixin = lora_pipeline.FluxLoraLoaderMixin
    wrapped = FluxLoraLoaderMixin._maybe_expand_lora_state_dict
    show_shapes_to_flux_(lora_pipeline)
    assert FluxLoraLoaderMixin._maybe_expand_lora_state_dict == wrapped
    source = inspect.getsource(wrapped.__func__.__wrapped__)
    assert "transformer.state_dict()" in source and "[base_param_name]" in source
    assert "self._maybe_expand_lora_state_dict(" in inspect.getsource(FluxLoraLoaderMixin)
