# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.packed import PackedWeightMixin, packed_modules

from ..conftest import run, tiny_generator, tiny_unet


LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3), (2, 3, 8)),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    assert not packed_modules(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(
        torch.equal(
            after[name],
            before[name],
        )
        or torch.isnan(before[name]).any()
        for name in before
    )


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_layer_computes_with_its_dequantized_weight(name, granularity, compute):
    layer, shape = copy.deepcopy(LAYERS[name])
    reference = copy.deepcopy(layer)
    model = nn.Sequential(layer)
    gz.quantize_(model, gz.QuantizeConfig(bits=3, granularity=granularity, compute=compute))
    assert isinstance(model[0], type(reference)) and isinstance(model[0], PackedWeightMixin)
    with torch.no_grad():
        reference.weight.copy_(model[0].weight)
    x = torch.randn(shape)
    assert torch.equal(model(x), reference(x))


def test_channel_scales_belong_to_output_channels():
    for layer, axis in ((nn.Conv2d(3, 5, 3), 0), (nn.ConvTranspose2d(3, 5, 3), 1)):
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(-3, 3, 5).view([-1 if i == axis else 1 for i in range(4)]))
        model = nn.Sequential(layer)
        report = gz.quantize_(model, gz.QuantizeConfig(method="linear", bits=8, granularity="channel"))
        assert report.layers[0].sqnr_db > 40
        assert model[0].weight_scale.shape[axis] == 5 and model[0].weight_scale.numel() == 5


def test_default_keeps_last_block_and_small_tensors(tiny_model):
    before = state(tiny_model)
    report = gz.quantize_(tiny_model, gz.QuantizeConfig(bits=4))
    after = tiny_model.state_dict()
    packed = {layer.name for layer in report.quantized}
    for name, tensor in before.items():
        if name in packed:
            assert tensor.ndim >= 2 and f"{name}_codes" in after
        else:
            assert torch.equal(after[name], tensor), name
    assert any("last block" in layer.skipped for layer in report.skipped)


def test_report_counts_every_byte(tiny_model):
    total = sum(t.nbytes for t in [*tiny_model.parameters(), *tiny_model.buffers()])
    report = gz.quantize_(tiny_model, gz.QuantizeConfig(bits=3))
    assert report.bytes_before == total
    assert report.bytes_after == sum(t.nbytes for t in [*tiny_model.parameters(), *tiny_model.buffers()])
    assert report.to_dict()["bytes_after"] == report.bytes_after
    assert "bits per weight" in str(report)


def test_three_bits_take_three_bits():
    model = nn.Sequential(nn.Linear(256, 256))
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3))
    assert report.layers[0].bytes_after == 256 * 256 * 3 // 8 + 4


def test_overrides_change_bits_skip_layers_and_reach_the_last_block():
    model = tiny_generator()
    overrides = {
        "mapping.*": {"bits": 8, "method": "linear"},
        "*.torgb": {"bits": None},
        "synthesis.b16.conv1": {"bits": 6},
    }
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3, overrides=overrides, skip=("mapping.fc0",)))
    layers = {layer.name: layer for layer in report.layers}
    assert layers["mapping.fc0.weight"].skipped == "skip pattern 'mapping.fc0'"
    assert (layers["mapping.fc1.weight"].bits, layers["mapping.fc1.weight"].method) == (8, "linear")
    assert layers["synthesis.b4.torgb.weight"].skipped == "overrides['*.torgb'] sets bits to None"
    assert layers["synthesis.b16.conv1.weight"].bits == 6
    assert layers["synthesis.b16.conv0.weight"].skipped == "last block (skip_last_block)"
    assert layers["synthesis.b8.conv0.weight"].bits == 3


def test_a_method_object_works_like_its_name():
    from hf_ganzip.quantization.methods import ACIQ

    by_name, by_object = tiny_generator(), tiny_generator()
    by_object.load_state_dict(by_name.state_dict())
    options = {"constants": "published", "clamp": "symmetric"}
    gz.quantize_(by_name, gz.QuantizeConfig(method="aciq", method_options=options, bits=3))
    gz.quantize_(by_object, gz.QuantizeConfig(method=ACIQ(**options), bits=3))
    assert torch.equal(run(by_name), run(by_object))
    assert by_object.config.quantization_config.to_dict()["method"] == "aciq"


def test_dequantize_restores_ordinary_layers(tiny_model, tmp_path):
    gz.quantize_(tiny_model, gz.QuantizeConfig(bits=4))
    expected = run(tiny_model)
    gz.dequantize_(tiny_model)
    assert not packed_modules(tiny_model)
    assert torch.equal(run(tiny_model), expected)
    tiny_model.save_pretrained(tmp_path)
    assert "ganzip" not in (tmp_path / "config.json").read_text()
    assert torch.equal(run(type(tiny_model).from_pretrained(tmp_path)), expected)
    with pytest.raises(ValueError, match="no packed layer"):
        gz.dequantize_(tiny_model)


def test_deepcopy_and_pickle_keep_packed_layers():
    import io

    model = tiny_unet()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    expected = run(model)
    assert torch.equal(run(copy.deepcopy(model)), expected)
    buffer = io.BytesIO()
    layer = model.conv_in
    torch.save(layer, buffer)
    buffer.seek(0)
    restored = torch.load(buffer, weights_only=False)
    assert torch.equal(restored.weight, layer.weight) and type(restored) is type(layer)


def test_casting_keeps_codes_and_scales_exact():
    layer = nn.Sequential(nn.Linear(16, 16))
    gz.quantize_(layer, gz.QuantizeConfig(bits=5))
    codes, scale, weight = layer[0].weight_codes.clone(), layer[0].weight_scale.clone(), layer[0].weight.clone()
    layer.to(torch.bfloat16)
    assert layer[0].weight.dtype == torch.bfloat16 and layer[0].bias.dtype == torch.bfloat16
    assert torch.equal(layer[0].weight_codes, codes) and torch.equal(layer[0].weight_scale, scale)
    assert torch.equal(layer[0].weight, weight.to(torch.bfloat16))
    assert torch.equal(layer.float()[0].weight, weight)


def test_compute_modes_give_equal_outputs():
    model = tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    expected = run(model)
    gz.set_compute_(model, "packed")
    assert torch.equal(run(model), expected)
    assert all(module._dequantized is None for module in packed_modules(model).values())
    with pytest.raises(ValueError, match="allowed are dequantized, packed"):
        gz.set_compute_(model, "fast")


def test_torch_compile_runs_without_graph_breaks():
    model = tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(bits=4, compute="packed"))
    expected = run(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(run_compiled(compiled, model), expected)


def run_compiled(compiled, model):
    from hf_ganzip.families import family_of

    args, kwargs = family_of(model).example_inputs(model)
    with torch.no_grad():
        return compiled(*args, return_dict=False, **kwargs)[0]


# -- bad input: one error, nothing changed ------------------------------------------------------------------------------


def test_non_finite_weights_are_all_named():
    model = tiny_generator()
    with torch.no_grad():
        model.mapping.fc0.weight[0, 0] = float("nan")
        model.synthesis.b8.conv1.weight[0, 0] = float("inf")
    before = state(model)
    with pytest.raises(ValueError, match=r"NaN or infinity: synthesis.b8.conv1, mapping.fc0; nothing was changed"):
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
    assert_unchanged(model, before)


def test_nothing_to_quantize_is_an_error():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    with pytest.raises(ValueError, match="there is nothing to quantize in Sequential"):
        gz.quantize_(model)
    model = tiny_generator()
    with pytest.raises(ValueError, match="nothing to quantize"):
        gz.quantize_(model, gz.QuantizeConfig(skip=("*",)))


def test_patterns_without_a_layer_are_all_reported():
    model = tiny_generator()
    before = state(model)
    config = gz.QuantizeConfig(skip=("synthesis.b64.*", "typo"), overrides={"maping.*": {"bits": 8}})
    with pytest.raises(ValueError) as error:
        gz.quantize_(model, config)
    for name in ("'synthesis.b64.*'", "'typo'", "'maping.*'"):
        assert name in str(error.value)
    assert_unchanged(model, before)


def test_quantizing_twice_is_refused():
    model = tiny_generator()
    gz.quantize_(model)
    expected = run(model)
    with pytest.raises(ValueError, match="already quantized"):
        gz.quantize_(model)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize(
    "norm", [torch.nn.utils.parametrizations.spectral_norm, torch.nn.utils.parametrizations.weight_norm]
)
def test_parametrized_layers_are_reported_not_ignored(norm):
    model = nn.Sequential(norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    report = gz.quantize_(model, gz.QuantizeConfig(bits=4))
    assert "parametrized" in report.layers[0].skipped
    assert report.layers[1].bits == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "acik"}, "Unknown quantization method 'acik'. Did you mean 'aciq'"),
        ({"bits": 1}, "allowed are integers from 2 to 8"),
        ({"bits": 9}, "allowed are integers from 2 to 8"),
        ({"bits": 4.0}, "allowed are integers from 2 to 8"),
        ({"granularity": "group"}, "allowed are tensor, channel"),
        ({"method_options": {"const": 1}}, "method 'aciq' has no option const; allowed are constants"),
        ({"method": "linear", "method_options": {"x": 1}}, "has no option x; allowed are none"),
        ({"compute": "fast"}, "allowed are dequantized, packed"),
        ({"skip": "mapping.*"}, "it takes a list of patterns"),
        ({"overrides": {"a": {"bit": 3}}}, r"overrides\['a'\] has \['bit'\]"),
        ({"overrides": {"a": {"bits": 12}}}, "allowed are integers from 2 to 8"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        gz.QuantizeConfig(**options)
    with pytest.raises(ValueError, match=message):
        gz.GanzipConfig(**options)
