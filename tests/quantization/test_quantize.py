# SPDX-License-Identifier: Apache-2.0
"""quantize_ and dequantize_: which weights, the report, the record, quantizing again."""

import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization.packed import PackedWeightMixin, packed_modules

from ..conftest import changed, refused, reopened, run, state_of, tiny_generator
from ..tiny_diffusion import FAMILIES


NORM_VECTORS = ("u0", "sv0", "parametrizations.weight.0._u", "parametrizations.weight.0._v")
NORM_TENSORS = (*NORM_VECTORS, "parametrizations.weight.original")


def norm_tensor(name, kinds, owners):
    """Whether a tensor belongs to the spectral norm of one of the modules, which quantization folds."""
    return any(name == f"{owner}.{kind}" for owner in owners for kind in kinds)


def test_the_papers_rule_keeps_last_block_and_small_tensors(tiny_model):
    before = state_of(tiny_model)
    report = gz.quantize_(tiny_model, bits=4, preset="paper")
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


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_projection_and_convolution_of_diffusers_models_is_packed(name):
    report = gz.quantize_(FAMILIES[name](), bits=3, headroom=0, skip_last_block=True)
    reasons = [layer.skipped for layer in report.skipped]
    assert any("last block" in reason for reason in reasons)
    assert all(any(kind in reason for kind in ("last block", "norm", "embedding")) for reason in reasons)
    attention = [layer.name for layer in report.quantized if ".to_q." in layer.name or ".to_out.0." in layer.name]
    assert len(attention) >= 2


def test_report_counts_every_byte(tiny_model):
    state = {**dict(tiny_model.named_parameters()), **dict(tiny_model.named_buffers())}
    report = gz.quantize_(tiny_model, bits=3)
    folded = {layer.name.removesuffix(".weight") for layer in report.quantized}
    counted = [tensor.nbytes for name, tensor in state.items() if not norm_tensor(name, NORM_VECTORS, folded)]
    assert report.bytes_before == sum(counted)
    assert report.bytes_after == sum(t.nbytes for t in [*tiny_model.parameters(), *tiny_model.buffers()])
    assert report.to_dict()["bytes_after"] == report.bytes_after
    assert "bits per weight" in str(report)


def test_dequantize_restores_ordinary_layers(tiny_model, tmp_path):
    gz.quantize_(tiny_model, bits=4)
    expected = run(tiny_model)
    gz.dequantize_(tiny_model)
    assert not packed_modules(tiny_model)
    assert torch.equal(run(tiny_model), expected)
    assert torch.equal(run(reopened(tiny_model, tmp_path)), expected)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()  # the record stays: so do the errors
    with pytest.raises(ValueError, match="no packed layer"):
        gz.dequantize_(tiny_model)


def test_non_finite_weights_are_all_named():
    model = tiny_generator()
    with torch.no_grad():
        model.mapping.fc0.weight[0, 0] = float("nan")
        model.synthesis.b8.conv1.weight[0, 0] = float("inf")
    with refused(model, "NaN or infinity: synthesis.b8.conv1, mapping.fc0; nothing was changed"):
        gz.quantize_(model, bits=4)


def test_nothing_to_quantize_is_an_error():
    with pytest.raises(ValueError, match="there is nothing to quantize in Sequential"):
        gz.quantize_(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Bilinear(2, 2, 2)))
    with pytest.raises(ValueError, match="nothing to quantize"):
        gz.quantize_(tiny_generator(), skip=("*",))


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
    assert not changed(before, module)
    module.eval()
    assert torch.equal(folded(x), module(x)) and torch.equal(weight, folded.weight)
    assert set(folded.state_dict()) == {"weight", "bias"} and not folded._forward_pre_hooks

    model = nn.Sequential(module)
    gz.quantize_(model, "linear", bits=8, granularity="channel")
    assert isinstance(model[0], PackedWeightMixin)
    assert set(model.state_dict()) == {"0.weight_codes", "0.weight_scale", "0.bias"}
    expected = folded(x)
    assert (model(x) - expected).abs().max() < 0.02 * expected.abs().max()


def test_embeddings_are_an_option():
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4))
    packed = copy.deepcopy(model)
    report = gz.quantize_(copy.deepcopy(model), bits=4)
    assert "embeddings=True" in report.layers[0].skipped
    gz.quantize_(packed, bits=8, embeddings=True, granularity="channel")
    ids = torch.arange(50)
    torch.testing.assert_close(packed(ids), model(ids), atol=0.03, rtol=0)


class TestRequantizing:
    def test_is_refused_unless_asked_for(self):
        model = tiny_generator()
        gz.quantize_(model, bits=8)
        with refused(model, "already quantized, .* requantize=True"):
            gz.quantize_(model, bits=4)

    @pytest.mark.parametrize("method", ["aciq", "gptq"])
    def test_starts_from_the_unpacked_weights(self, method, tmp_path):
        options = {"batches": 2, "batch_size": 2, "progress": False} if method == "gptq" else {}
        twice = tiny_generator()
        gz.quantize_(twice, bits=8)
        once = copy.deepcopy(twice)
        gz.dequantize_(once)
        for model, requantize in ((twice, True), (once, False)):
            gz.quantize_(model, method, bits=3, method_options=options, requantize=requantize)
        assert torch.equal(run(twice), run(once)) and torch.equal(run(reopened(twice, tmp_path)), run(once))


@pytest.mark.parametrize(
    "options", [{}, {"embeddings": True}, {"overrides": {"cls.predictions.decoder": {"bits": 8}}}], ids=str
)
def test_tied_heads_of_language_models_stay_and_the_model_is_restored(options, tmp_path):
    """Output layers that share their weight with the input embeddings."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **sizes)).eval()
    report = gz.quantize_(model, bits=4, **options)
    head = next(layer for layer in report.layers if layer.name == "cls.predictions.decoder.weight")
    assert "output embeddings" in head.skipped
    restored = reopened(model, tmp_path).eval()
    ids = torch.arange(6).view(1, 6)
    with torch.no_grad():
        assert torch.equal(restored(ids).logits, model(ids).logits)


def test_the_record_holds_what_describes_the_result():
    model = tiny_generator()
    gz.quantize_(model, bits=8)
    gz.quantize_(model, bits=4, requantize=True)
    steps = model.config.quantization_config.record
    assert [step["options"]["bits"] for step in steps] == [8, 4]
    assert not any("requantize" in step["options"] for step in steps)
