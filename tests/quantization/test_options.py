# SPDX-License-Identifier: Apache-2.0
"""How one says what to quantize and how: patterns, parts of names, methods as objects, wrong options."""

import copy
import dataclasses
import fnmatch
import json

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import refused, reopened, run, tiny_generator, tiny_unet


def test_overrides_change_bits_skip_layers_and_reach_the_last_block():
    model = tiny_generator()
    overrides = {
        "mapping.*": {"bits": 8, "method": "linear"},
        "*.torgb": {"bits": None},
        "synthesis.b16.conv1": {"bits": 6},
    }
    options = {"skip_last_block": True, "headroom": 0}
    report = gz.quantize_(model, bits=3, overrides=overrides, skip=("mapping.fc0",), **options)
    layers = {layer.name: layer for layer in report.layers}
    assert layers["mapping.fc0.weight"].skipped == "skip pattern 'mapping.fc0'"
    assert (layers["mapping.fc1.weight"].bits, layers["mapping.fc1.weight"].method) == (8, "linear")
    assert layers["synthesis.b4.torgb.weight"].skipped == "overrides['*.torgb'] sets bits to None"
    assert layers["synthesis.b16.conv1.weight"].bits == 6
    assert layers["synthesis.b16.conv0.weight"].skipped == "last block (skip_last_block)"
    assert layers["synthesis.b8.conv0.weight"].bits == 3


def test_a_method_object_works_like_its_name():
    by_name, options = tiny_generator(), {"constants": "published", "clamp": "symmetric"}
    by_object = copy.deepcopy(by_name)
    gz.quantize_(by_name, method="aciq", method_options=options, bits=3)
    gz.quantize_(by_object, method=gz.quantization.METHODS["aciq"](**options), bits=3)
    assert torch.equal(run(by_name), run(by_object))
    assert by_object.config.quantization_config.to_dict()["method"] == "aciq"


def test_patterns_without_a_layer_are_all_reported_with_the_nearest():
    generator, unet = tiny_generator(), tiny_unet()
    with refused(generator, r"(?s)'synthesis.b64.\*'.*'typo'.*'maping.\*'"):
        gz.quantize_(generator, skip=("synthesis.b64.*", "typo"), overrides={"maping.*": {"bits": 8}})
    with refused(unet, "'atentions' matches no layer. Did you mean 'attentions'?"):
        gz.quantize_(unet, modules_to_not_convert=["conv_in", "atentions"])
    with refused(unet, "skip 'conv_im' matches no layer. Did you mean 'conv_in'?"):
        gz.quantize_(unet, skip=["conv_im"])


@pytest.mark.parametrize(
    "modules, expected",
    [
        (("conv_in",), "conv_in"),
        (("conv",), "*.downsamplers.0.conv *.upsamplers.0.conv"),  # no "conv1", no "conv_in"
        (("to_out.0", "time_embedding"), "*.to_out.0 time_embedding.*"),  # the end of a name, and its beginning
        (("attentions.0",), "*.attentions.0.*"),  # the middle
        (("up_blocks.*.resnets", "mid_block."), "up_blocks.?.resnets.* mid_block.*"),
    ],
)
def test_modules_to_not_convert_are_names_or_parts_of_names(modules, expected):
    model = tiny_unet()
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    named = {name for pattern in expected.split() for name in fnmatch.filter(layers, pattern)}
    packed = []
    for each, chosen in ((copy.deepcopy(model), []), (model, list(modules))):
        gz.quantize_(each, bits=4, skip_last_block=False, modules_to_not_convert=chosen)
        packed.append(set(packed_modules(each)))
    assert packed[0] - packed[1] == named and named


def test_the_ways_to_say_how_to_quantize_are_one():
    wanted = gz.QuantizeConfig("linear", bits=3, skip_last_block=False)
    assert gz.QuantizeConfig.of(gz.GanzipConfig("linear", 3, skip_last_block=False)) == wanted
    assert gz.QuantizeConfig.of("linear", bits=3, skip_last_block=False) == wanted
    aciq = gz.GanzipConfig("aciq", method_options={"sigma": "std"}, skip_last_block=False)
    assert gz.QuantizeConfig.of(aciq, method="linear", bits=3) == wanted
    for options in ({"bit": 3}, {"modules_to_not_covert": ["conv_in"]}, {"presets": "paper"}):
        with pytest.raises(TypeError, match="Did you mean '(bits|modules_to_not_convert|preset)'"):
            gz.quantize_(tiny_unet(), **options)
    with pytest.raises(TypeError, match="config is 4; allowed are a QuantizeConfig"):
        gz.quantize_(tiny_unet(), 4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "acik"}, "Unknown quantization method 'acik'. Did you mean 'aciq'"),
        ({"preset": "papers"}, "Unknown preset 'papers'. Did you mean 'paper'"),
        *(({"bits": bits}, "bits is .*; allowed are integers from 2 to 8") for bits in (1, 9, 4.0, True)),
        *(({"group_size": size}, "group_size is .*; allowed are integers from 2") for size in (1, "16")),
        *(({"svd_rank": rank}, "svd_rank is .*; allowed are integers from 0") for rank in (-1, 1.5, True, "4")),
        *(({"headroom": share}, "headroom is .*; allowed are numbers") for share in (-0.1, 1.5, "much", float("nan"))),
        ({"scale_dtype": "int8"}, "allowed are float32, float16"),
        ({"hadamard": "yes"}, "hadamard is 'yes'; allowed are None, False and True"),
        ({"activations": "int4"}, "allowed are None and 'int8'"),
        ({"activations": "int8", "activation_range": "best"}, "allowed are mse, percentile, minmax, dynamic"),
        ({"activations": "int8", "method": "codebook"}, "method 'codebook', which are no integers"),
        ({"activations": "int8", "granularity": "group"}, "granularity 'group', which"),
        ({"activations": "int8", "symmetric": False}, "symmetric=False, which"),
        ({"compute": "int8"}, "give activations='int8', too"),
        ({"granularity": "row"}, "allowed are tensor, channel, group"),
        ({"method": "aciq", "method_options": {"const": 1}}, "'aciq' has no option const; allowed are constants"),
        ({"method_options": {"const": 1}}, "method 'auto' has no option const; allowed are none"),
        ({"compute": "fast"}, "allowed are packed, dequantized"),
        ({"skip": "mapping.*"}, "it takes a list of patterns"),
        ({"overrides": {"a": {"bit": 3}}}, r"overrides\['a'\] has \['bit'\]"),
        ({"overrides": {"a": {"bits": 12}}}, "allowed are integers from 2 to 8"),
    ],
)
def test_wrong_options(options, message):
    for config in (gz.QuantizeConfig, gz.GanzipConfig):
        with pytest.raises(ValueError, match=message):
            config(**options)


@dataclasses.dataclass(frozen=True)
class Halves:
    """An own method: linear, with an option of its own."""

    share: float = 0.5

    def __call__(self, rows, bits, scale_dtype=torch.float32):
        return gz.quantization.METHODS["linear"]()(rows * self.share, bits, scale_dtype)


@pytest.mark.parametrize("options", [{}, {"overrides": {"mapping.*": {"method": Halves(0.25), "bits": 5}}}])
def test_a_folder_of_an_own_method_object_is_restored_and_saved_again(options, tmp_path):
    model = tiny_generator()
    method = "aciq" if options else Halves(0.75)
    gz.quantize_(model, method, bits=4, **options)
    restored = reopened(model, tmp_path / "first")
    assert torch.equal(run(restored), run(model))
    restored.save_pretrained(tmp_path / "second")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert "Halves" in json.dumps(configs[1]["quantization_config"])
    with pytest.raises(ValueError, match="Unknown quantization method 'Halves'"):
        gz.GanzipConfig(method="Halves", bits=4)
