# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import fnmatch
import json
import pickle

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.grid import to_values
from hf_ganzip.quantization.packed import PackedWeightMixin, packed_modules

from ..conftest import changed, run, state_of, tiny_generator, tiny_unet


NORM_VECTORS = ("u0", "sv0", "parametrizations.weight.0._u", "parametrizations.weight.0._v")
NORM_TENSORS = (*NORM_VECTORS, "parametrizations.weight.original")


def norm_tensor(name, kinds, owners):
    """Whether a tensor belongs to the spectral norm of one of the modules, which quantization folds."""
    return any(name == f"{owner}.{kind}" for owner in owners for kind in kinds)


LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3), (2, 3, 8)),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
}


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
        assert model[0].weight_scale.shape == (5, 1) and model[0].packed_layout.axis == axis


def test_the_papers_rule_keeps_last_block_and_small_tensors(tiny_model):
    before = state_of(tiny_model)
    report = gz.quantize_(tiny_model, gz.QuantizeConfig(bits=4, preset="paper"))
    after = tiny_model.state_dict()
    packed = {layer.name for layer in report.quantized}
    owners = {name.removesuffix(".weight") for name in packed}
    for name, tensor in before.items():
        if norm_tensor(name, NORM_TENSORS, owners):
            assert name not in after
        elif name in packed:
            assert tensor.ndim >= 2 and f"{name}_codes" in after
        else:
            assert torch.equal(after[name], tensor), name
    assert any("last block" in layer.skipped for layer in report.skipped)


def test_the_default_quantizes_the_last_block_and_leaves_only_small_and_sensitive_layers(tiny_model):
    paper, default = copy.deepcopy(tiny_model), tiny_model
    last = [each.name for each in gz.quantize_(paper, preset="paper").skipped if "last block" in each.skipped]
    report = gz.quantize_(default, bits=4, embeddings=True)
    reasons = {layer.skipped for layer in report.skipped}
    assert reasons <= {"one-dimensional weight (norm)", "small (headroom)", "sensitive (headroom)"}
    layers = {layer.name: layer for layer in report.layers}
    assert all(layers[name].bits or "headroom" in layers[name].skipped for name in last) and last
    assert any(layers[name].bits for name in last) or "sensitive (headroom)" in reasons


def test_report_counts_every_byte(tiny_model):
    state = {**dict(tiny_model.named_parameters()), **dict(tiny_model.named_buffers())}
    report = gz.quantize_(tiny_model, gz.QuantizeConfig(bits=3))
    folded = {layer.name.removesuffix(".weight") for layer in report.quantized}
    counted = [tensor.nbytes for name, tensor in state.items() if not norm_tensor(name, NORM_VECTORS, folded)]
    assert report.bytes_before == sum(counted)
    assert report.bytes_after == sum(t.nbytes for t in [*tiny_model.parameters(), *tiny_model.buffers()])
    assert report.to_dict()["bytes_after"] == report.bytes_after
    assert "bits per weight" in str(report)


def test_three_bits_take_three_bits():
    model = nn.Sequential(nn.Linear(256, 256))
    report = gz.quantize_(copy.deepcopy(model), gz.QuantizeConfig(bits=3, preset="paper"))
    assert report.layers[0].bytes_after == 256 * 256 * 3 // 8 + 4
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3))  # a float16 scale per channel, and the levels
    assert report.layers[0].bytes_after == 256 * 256 * 3 // 8 + 2 * 256 + 2 * 2**3


def test_overrides_change_bits_skip_layers_and_reach_the_last_block():
    model = tiny_generator()
    overrides = {
        "mapping.*": {"bits": 8, "method": "linear"},
        "*.torgb": {"bits": None},
        "synthesis.b16.conv1": {"bits": 6},
    }
    options = {"skip_last_block": True, "headroom": 0}
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3, overrides=overrides, skip=("mapping.fc0",), **options))
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
    assert "quantization_config" not in (tmp_path / "config.json").read_text()  # the record stays: so do the errors
    assert torch.equal(run(type(tiny_model).from_pretrained(tmp_path)), expected)
    with pytest.raises(ValueError, match="no packed layer"):
        gz.dequantize_(tiny_model)


def test_deepcopy_and_pickle_keep_packed_layers():
    model = tiny_unet()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    assert torch.equal(run(copy.deepcopy(model)), run(model))
    layer = model.conv_in
    restored = pickle.loads(pickle.dumps(layer))
    assert torch.equal(restored.weight, layer.weight) and type(restored) is type(layer)


@pytest.mark.processor
def test_casting_keeps_codes_and_scales_exact():
    layer = nn.Sequential(nn.Linear(16, 16))
    gz.quantize_(layer, gz.QuantizeConfig(bits=5))
    codes, scale, weight = layer[0].weight_codes.clone(), layer[0].weight_scale.clone(), layer[0].weight.clone()
    layer.to(torch.bfloat16)
    assert layer[0].weight.dtype == torch.bfloat16 and layer[0].bias.dtype == torch.bfloat16
    assert torch.equal(layer[0].weight_codes, codes) and torch.equal(layer[0].weight_scale, scale)
    assert torch.equal(layer[0].weight, weight.to(torch.bfloat16))
    assert torch.equal(layer.float()[0].weight, weight)


@pytest.mark.processor
def test_compute_modes_give_equal_outputs():
    model = tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    expected = run(model)
    gz.set_compute_(model, "packed")
    assert torch.equal(run(model), expected)
    assert all(module._dequantized is None for module in packed_modules(model).values())
    with pytest.raises(ValueError, match="allowed are packed, dequantized"):
        gz.set_compute_(model, "fast")


def test_unpacking_in_parts_is_unpacking_at_once(monkeypatch):
    """Every layout: scales per tensor, channel, group and shared by channels; offsets, codebooks, split and transposed
    channels, bfloat16.
    """
    base, base_t = torch.randn(6, 5, 3, 3), torch.randn(5, 6, 3, 3)
    layers = []
    for bits in range(2, 9):
        for options in (
            {},
            {"granularity": "channel", "scale_dtype": "float16"},
            {"granularity": "group", "group_size": 15, "symmetric": False},
            {"method": "codebook", "granularity": "channel"},
            {"method": "outlier_splitting"},
        ):
            for kind, weight in ((nn.Conv2d, base), (nn.ConvTranspose2d, base_t)):
                layer = kind(5, 6, 3)
                layer.weight = nn.Parameter(weight.clone())
                gz.quantize_(nn.Sequential(layer), gz.QuantizeConfig(**{"bits": bits, **options}))
                layers += [layer, copy.deepcopy(layer).to(torch.bfloat16)]
    expected = [layer.weight for layer in layers]
    for chunk in (1, 100):  # one output channel at a time, and two
        monkeypatch.setattr("hf_ganzip.quantization.buffers._CHUNK", chunk)
        for layer, weight in zip(layers, expected):
            assert torch.equal(layer.weight, weight) and layer.weight.stride() == weight.stride()


@pytest.mark.parametrize("bits", (2, 3, 5, 6))
def test_levels_of_a_codebook_are_looked_up_exactly(bits):
    """Many and few, an even number and an odd one; signed zeros and what is no number stay as they are."""
    codebook = torch.randn(2**bits).half()
    codebook[0], codebook[1] = -0.0, float("nan")
    for count in (2**14, 2**14 + 1, 6):
        codes = torch.randint(0, 2**bits, (1, count), dtype=torch.uint8)
        found = to_values(codes, None, codebook=codebook)
        assert torch.equal(found.view(torch.int32), codebook.float()[codes.int()].view(torch.int32))


# -- bad input: one error, nothing changed
# ------------------------------------------------------------------------------


def test_non_finite_weights_are_all_named():
    model = tiny_generator()
    with torch.no_grad():
        model.mapping.fc0.weight[0, 0] = float("nan")
        model.synthesis.b8.conv1.weight[0, 0] = float("inf")
    before = state_of(model)
    with pytest.raises(ValueError, match=r"NaN or infinity: synthesis.b8.conv1, mapping.fc0; nothing was changed"):
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
    assert not changed(before, model)


def test_nothing_to_quantize_is_an_error():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    with pytest.raises(ValueError, match="there is nothing to quantize in Sequential"):
        gz.quantize_(model)
    model = tiny_generator()
    with pytest.raises(ValueError, match="nothing to quantize"):
        gz.quantize_(model, gz.QuantizeConfig(skip=("*",)))


def test_patterns_without_a_layer_are_all_reported():
    model = tiny_generator()
    before = state_of(model)
    config = gz.QuantizeConfig(skip=("synthesis.b64.*", "typo"), overrides={"maping.*": {"bits": 8}})
    with pytest.raises(ValueError) as error:
        gz.quantize_(model, config)
    for name in ("'synthesis.b64.*'", "'typo'", "'maping.*'"):
        assert name in str(error.value)
    assert not changed(before, model)


def left_alone(model, *modules):
    """Names of the layers that ``modules_to_not_convert`` leaves alone, besides those that stay anyway."""
    names = []
    for each, chosen in ((copy.deepcopy(model), []), (model, list(modules))):
        gz.quantize_(each, bits=4, skip_last_block=False, modules_to_not_convert=chosen)
        names.append(set(packed_modules(each)))
    return names[0] - names[1]


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
    assert left_alone(model, *modules) == named and named


def test_modules_to_not_convert_without_a_module_name_the_nearest():
    model = tiny_unet()
    before = state_of(model)
    with pytest.raises(ValueError, match="'atentions' matches no layer. Did you mean 'attentions'?"):
        gz.quantize_(model, modules_to_not_convert=["conv_in", "atentions"])
    with pytest.raises(ValueError, match="skip 'conv_im' matches no layer. Did you mean 'conv_in'?"):
        gz.quantize_(model, skip=["conv_im"])
    assert not changed(before, model)


def test_modules_to_not_convert_are_saved_as_what_is_skipped(tmp_path):
    model = tiny_unet()
    gz.quantize_(model, modules_to_not_convert="mid_block", skip=["conv_in"])
    model.save_pretrained(tmp_path)
    saved = type(model).from_pretrained(tmp_path).config.quantization_config.quantize_config
    assert saved.skip == ("conv_in", ".mid_block.")
    assert gz.GanzipConfig(modules_to_not_convert="mid_block", skip=["conv_in"]).quantize_config.skip == saved.skip


def test_the_ways_to_say_how_to_quantize_are_one():
    wanted = gz.QuantizeConfig("linear", bits=3, skip_last_block=False)
    for args, options in (
        ((wanted,), {}),
        ((gz.GanzipConfig("linear", 3, skip_last_block=False),), {}),
        (("linear",), {"bits": 3, "skip_last_block": False}),
        ((), {"method": "linear", "bits": 3, "skip_last_block": False}),
        (
            (gz.QuantizeConfig("aciq", method_options={"sigma": "std"}, skip_last_block=False),),
            {"method": "linear", "bits": 3},
        ),
        ((gz.GanzipConfig("linear", skip_last_block=False),), {"bits": 3}),
    ):
        assert gz.QuantizeConfig.of(*args, **options) == wanted
    for options in ({"bit": 3}, {"modules_to_not_covert": ["conv_in"]}):
        with pytest.raises(TypeError, match="Did you mean '(bits|modules_to_not_convert)'"):
            gz.quantize_(tiny_unet(), **options)
    with pytest.raises(TypeError, match="config is 4; allowed are a QuantizeConfig"):
        gz.quantize_(tiny_unet(), 4)


NORMS = {
    "spectral_norm": torch.nn.utils.parametrizations.spectral_norm,
    "weight_norm": torch.nn.utils.parametrizations.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize(
    "layer", [nn.Linear(8, 6), nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)], ids=lambda m: type(m).__name__
)
def test_computed_weights_are_folded_exactly(norm, layer):
    from hf_ganzip.quantization.folding import folded_weight, remove_parametrization_

    module = norm(copy.deepcopy(layer))
    x = torch.randn(2, 8) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        module(x)  # training mode: one power iteration
    folded = copy.deepcopy(module)
    remove_parametrization_(folded)
    before = state_of(module)
    weight = folded_weight(module)  # in training mode, too, without a power iteration
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    module.eval()
    assert torch.equal(folded(x), module(x)) and torch.equal(weight, folded.weight)
    assert set(folded.state_dict()) == {"weight", "bias"} and not folded._forward_pre_hooks

    model = nn.Sequential(module)
    gz.quantize_(model, gz.QuantizeConfig(method="linear", bits=8, granularity="channel"))
    assert isinstance(model[0], PackedWeightMixin)
    assert set(model.state_dict()) == {"0.weight_codes", "0.weight_scale", "0.bias"}
    expected = folded(x)
    assert (model(x) - expected).abs().max() < 0.02 * expected.abs().max()


class TestGroups:
    def test_every_group_has_its_scale(self):
        layer = nn.Conv2d(4, 6, 3)
        with torch.no_grad():
            layer.weight.view(6, 3, 12).mul_(torch.logspace(-4, 4, 18).view(6, 3, 1))
        model = nn.Sequential(layer)
        config = gz.QuantizeConfig(method="linear", bits=8, granularity="group", group_size=12)
        report = gz.quantize_(model, config)
        assert model[0].weight_scale.shape == (18, 1) and report.layers[0].sqnr_db > 40

    def test_groups_of_transposed_convolutions_stay_within_an_output_channel(self):
        layer = nn.ConvTranspose2d(4, 3, 3)
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(-3, 3, 3).view(1, 3, 1, 1))
        model = nn.Sequential(layer)
        report = gz.quantize_(model, gz.QuantizeConfig(method="linear", bits=8, granularity="group", group_size=18))
        assert model[0].weight_scale.shape == (6, 1) and report.layers[0].sqnr_db > 40

    def grouped(self, *lengths, **options):
        """Report on linear layers of these numbers of inputs."""
        model = nn.Sequential(*(nn.Linear(length, 4) for length in lengths))
        report = gz.quantize_(model, bits=4, granularity="group", headroom=0, **options)
        return model, report.layers

    def test_layers_that_groups_do_not_divide_have_the_largest_smaller_ones_or_a_scale_per_channel(self):
        model, layers = self.grouped(256, 64, 96, 20, 12, 160)
        assert [len(module.weight_scale) // 4 for module in model] == [2, 1, 1, 1, 1, 2]
        assert [layer.note for layer in layers] == [
            None,
            "groups of 64 (128 does not divide 64)",  # in_channels of Flux
            "groups of 96 (128 does not divide 96)",
            "groups of 20 (128 does not divide 20)",
            "one scale per channel (128 does not divide 12)",
            "groups of 80 (128 does not divide 160)",
        ]
        assert [module.packed_layout.rows for module in model] == [8, 4, 4, 4, 4, 8]

    def test_groups_smaller_than_sixteen_are_as_small_as_asked_and_never_smaller(self):
        model, layers = self.grouped(24, 20, group_size=12)
        assert [len(module.weight_scale) // 4 for module in model] == [2, 1]
        assert [layer.note for layer in layers] == [None, "one scale per channel (12 does not divide 20)"]

    def test_the_note_of_more_bits_and_of_smaller_groups_are_one(self):
        model = nn.Sequential(nn.Linear(64, 4), nn.Linear(256, 2048), nn.Linear(2048, 64))
        layers = gz.quantize_(model, bits=8, granularity="group", headroom=0.02).layers
        assert layers[0].skipped == "sensitive (headroom)" and layers[0].note is None
        layers = gz.quantize_(model, bits=5, granularity="group", headroom=0.001, requantize=True).layers
        assert layers[0].note == "sensitive (headroom); groups of 64 (128 does not divide 64)"

    def test_a_folder_of_mixed_groups_is_restored(self, tmp_path):
        model = tiny_unet()
        report = gz.quantize_(model, bits=4, granularity="group", group_size=64)
        assert any("groups of" in (layer.note or "") for layer in report.layers)
        model.save_pretrained(tmp_path)
        assert torch.equal(run(type(model).from_pretrained(tmp_path)), run(model))

    def test_only_where_no_layer_can_have_groups_it_is_an_error(self):
        model = nn.Sequential(nn.Linear(12, 4), nn.Linear(17, 4))
        before = state_of(model)
        with pytest.raises(ValueError, match="group_size 16 or a smaller .*; set granularity 'channel'; nothing was"):
            gz.quantize_(model, granularity="group", group_size=16)
        assert not changed(before, model)


def test_asymmetric_rows_may_lie_far_from_zero():
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight.add_(torch.linspace(5, 9, 8)[:, None])
    sqnr = {}
    for symmetric in (True, False):
        model = nn.Sequential(copy.deepcopy(layer))
        config = gz.QuantizeConfig(method="linear", bits=4, granularity="channel", symmetric=symmetric)
        report = gz.quantize_(model, config)
        sqnr[symmetric] = report.layers[0].sqnr_db
        assert report.layers[0].bytes_after == 64 * 8 // 2 + 8 * 4 * (1 if symmetric else 2)
    assert sqnr[False] > sqnr[True] + 20


def test_float16_scales_take_half_the_bytes_and_fall_back_where_they_would_overflow():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(64, 8))
    with torch.no_grad():
        model[1].weight.mul_(1e8)
    report = gz.quantize_(model, gz.QuantizeConfig(bits=4, granularity="channel", scale_dtype="float16"))
    assert [layer.bytes_after for layer in report.layers] == [256 + 16, 256 + 32]
    assert model[0].weight_scale.dtype == torch.float16 and model[1].weight_scale.dtype == torch.float32
    assert all(layer.sqnr_db > 10 for layer in report.layers)


def test_embeddings_are_an_option():
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
    report = gz.quantize_(copy.deepcopy(model), gz.QuantizeConfig(bits=4))
    assert "embeddings=True" in report.layers[0].skipped
    packed = copy.deepcopy(model)
    gz.quantize_(packed, gz.QuantizeConfig(bits=8, embeddings=True, granularity="channel"))
    ids = torch.arange(50)
    torch.testing.assert_close(packed(ids), model(ids), atol=0.03, rtol=0)


def test_split_channels_are_folded_back():
    layer = nn.Conv2d(8, 4, 3)
    model = nn.Sequential(layer)
    shape, size = layer.weight.shape, layer.weight.nbytes
    report = gz.quantize_(model, gz.QuantizeConfig(method="outlier_splitting", bits=4))
    assert model[0].weight.shape == shape and model[0].weight_sources.dtype == torch.int16
    assert (report.layers[0].bytes_before, report.layers[0].bytes_after) == (size, 4 * 9 * 9 // 2 + 4 + 2)
    model.load_state_dict(model.state_dict())


class TestRequantizing:
    def test_is_refused_unless_asked_for(self):
        model = tiny_generator()
        gz.quantize_(model, gz.QuantizeConfig(bits=8))
        expected = run(model)
        with pytest.raises(ValueError, match="already quantized, .* requantize=True"):
            gz.quantize_(model, gz.QuantizeConfig(bits=4))
        assert torch.equal(run(model), expected)

    @pytest.mark.parametrize("method", ["aciq", "gptq"])
    def test_starts_from_the_unpacked_weights(self, method, tmp_path):
        options = {"batches": 2, "batch_size": 2, "progress": False} if method == "gptq" else {}
        twice, once = tiny_generator(), tiny_generator()
        once.load_state_dict(twice.state_dict())
        for model in (twice, once):
            gz.quantize_(model, gz.QuantizeConfig(bits=8))
        gz.dequantize_(once)
        for model, requantize in ((twice, True), (once, False)):
            gz.quantize_(model, gz.QuantizeConfig(method, bits=3, method_options=options, requantize=requantize))
        assert torch.equal(run(twice), run(once))
        twice.save_pretrained(tmp_path)
        assert torch.equal(run(type(twice).from_pretrained(tmp_path)), run(twice))


def test_writing_into_a_packed_weight_is_refused():
    model = nn.Sequential(nn.Linear(8, 8))
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    with pytest.raises(RuntimeError, match="merging a LoRA.*dequantize_"):
        model[0].weight.data += 1
    gz.dequantize_(model)
    model[0].weight.data += 1


def test_layerwise_casting_is_refused_with_the_reason():
    model = tiny_unet()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    with pytest.raises(RuntimeError, match="layerwise casting would destroy its scales"):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_gives_the_same_output(compute, offload_type):
    model = tiny_unet()
    gz.quantize_(model, gz.QuantizeConfig(bits=4, compute=compute))
    expected = run(model)
    options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    model.enable_group_offload(torch.device("cpu"), offload_type=offload_type, **options)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "acik"}, "Unknown quantization method 'acik'. Did you mean 'aciq'"),
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
        ({"method": "linear", "method_options": {"x": 1}}, "has no option x; allowed are none"),
        ({"compute": "fast"}, "allowed are packed, dequantized"),
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


def test_loading_another_state_changes_what_is_computed():
    models = [nn.Sequential(nn.Linear(8, 8)) for _ in range(2)]
    x = torch.randn(3, 8)
    for model in models:
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model(x)
    models[0].load_state_dict(models[1].state_dict())
    assert torch.equal(models[0](x), models[1](x))


class TestTiedHeads:
    """Language models whose output layer shares its weight with the input embeddings."""

    def build(self, name):
        transformers = pytest.importorskip("transformers")
        if name == "bert":
            sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **sizes)).eval()
        sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "add_cross_attention": False}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=30, n_positions=8, **sizes)).eval()

    @pytest.mark.parametrize("embeddings", [False, True])
    def test_stay_and_the_model_is_restored(self, embeddings, tmp_path):
        model = self.build("bert")
        report = gz.quantize_(model, gz.QuantizeConfig(bits=4, embeddings=embeddings))
        head = next(layer for layer in report.layers if layer.name == "cls.predictions.decoder.weight")
        assert "output embeddings" in head.skipped
        model.save_pretrained(tmp_path)
        restored = type(model).from_pretrained(tmp_path).eval()
        ids = torch.arange(6).view(1, 6)
        with torch.no_grad():
            assert torch.equal(restored(ids).logits, model(ids).logits)

    def test_are_not_reached_by_overrides(self):
        with pytest.raises(ValueError, match="nothing to quantize"):  # its layers are transformers' own Conv1D
            gz.quantize_(self.build("gpt2"), gz.QuantizeConfig(bits=4, overrides={"lm_head": {"bits": 8}}))


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
    gz.quantize_(model, gz.QuantizeConfig(method, bits=4, **options))
    model.save_pretrained(tmp_path / "first")
    restored = type(model).from_pretrained(tmp_path / "first")
    assert torch.equal(run(restored), run(model))
    restored.save_pretrained(tmp_path / "second")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert "Halves" in json.dumps(configs[1]["quantization_config"])
    with pytest.raises(ValueError, match="Unknown quantization method 'Halves'"):
        gz.GanzipConfig(method="Halves", bits=4)


def test_the_record_holds_what_describes_the_result():
    model = tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(bits=8))
    gz.quantize_(model, gz.QuantizeConfig(bits=4, requantize=True))
    steps = model.config.quantization_config.record
    assert [step["options"]["bits"] for step in steps] == [8, 4]
    assert not any("requantize" in step["options"] for step in steps)
