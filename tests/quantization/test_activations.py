# SPDX-License-Identifier: Apache-2.0
"""Activations of 8 bits: ranges, what is saved, what is refused, modes of computing."""

import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.families import example_inputs
from hf_ganzip.quantization import int8
from hf_ganzip.quantization.packed import computing, packed_modules

from ..conftest import TINY, refused, run, tiny_generator, tiny_unet
from ..tiny_diffusion import transformer
from .conftest import given


def rounding(model):
    return {name: layer for name, layer in packed_modules(model).items() if layer.packed_layout.activations}


@pytest.mark.parametrize("kind", ["mse", "percentile", "minmax"])
def test_a_range_holds_zero_and_what_it_clips(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    values = torch.randn(4000, 8)
    values[1, 1] = 100.0
    options = {"activations": "int8", "activation_range": kind, "activation_inputs": given(values), "headroom": 0}
    low, high = gz.quantize_(model, bits=8, **options).layers[0].input_range
    assert low < 0 < high
    assert (high > 99) == (kind == "minmax")


def test_inputs_that_are_always_zero_have_a_range_and_broken_ones_are_named():
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    dynamic = copy.deepcopy(model)
    with refused(model, "NaN or infinity while the ranges.*: 0; nothing was"):
        gz.quantize_(model, bits=8, activations="int8", activation_inputs=given(torch.full((2, 4), torch.inf)))
    gz.quantize_(model, bits=8, activations="int8", activation_inputs=given(torch.zeros(2, 4)))
    assert model[0].input_scale == 1 and torch.equal(model(torch.zeros(2, 4)), model[0].bias.expand(2, 4))
    gz.quantize_(dynamic, bits=8, activations="int8", activation_range="dynamic")
    assert not torch.isfinite(dynamic(torch.tensor([[1.0, torch.inf, 0, 0]]))).all()


def test_a_model_without_inputs_or_integer_layers_is_refused():
    with pytest.raises(ValueError, match="give activation_inputs, or activation_range='dynamic'"):
        gz.quantize_(nn.Sequential(nn.Linear(4, 4)), bits=8, activations="int8")
    with pytest.raises(ValueError, match="no layer can compute with integers"):
        gz.quantize_(nn.Sequential(nn.Conv1d(4, 4, 3)), bits=8, activations="int8", activation_range="dynamic")
    model = nn.Sequential(nn.Linear(4, 4))
    gz.quantize_(model, bits=8)
    with pytest.raises(ValueError, match="no layer rounds its activations"):
        gz.set_compute_(model, "int8")


def test_the_report_says_which_layers_stay_in_float():
    options = {"bits": 8, "activations": "int8", "overrides": {"*b4.conv1": {"activations": None}}}
    report = gz.quantize_(tiny_generator(), headroom=0, **options)
    inputs = {layer.name: (layer.activations, layer.note) for layer in report.quantized}
    assert inputs["synthesis.b4.conv1.weight"] == (None, None)
    assert inputs["synthesis.b8.conv0.weight"] == ("static", None)
    assert "activations in float (FullyConnectedLayer)" in str(report)


@pytest.mark.parametrize(
    "make, ends, blocks",
    [
        (tiny_generator, {"synthesis.b16.conv1"}, {"synthesis.b8.conv0"}),
        (tiny_unet, {"conv_in", "conv_out", "time_embedding.linear_1"}, {"down_blocks.0.resnets.0.conv1"}),
        (transformer, {"pos_embed.proj", "proj_out_1", "proj_out_2"}, {"transformer_blocks.0.attn1.to_q"}),
    ],
)
def test_neither_images_nor_embeddings_nor_outputs_are_rounded_unless_asked_for(make, ends, blocks):
    """At W4A8 the noise predictions of the bundled DDPM have 18 dB if ``conv_in`` rounds its images, and 30 if not."""
    options = {"bits": 4, "activations": "int8", "activation_range": "dynamic", "headroom": 0}
    model = make().eval()
    report = gz.quantize_(model, **options)
    assert not ends & rounding(model).keys() and blocks <= rounding(model).keys()
    notes = {layer.name.removesuffix(".weight"): layer.note for layer in report.quantized}
    assert {notes[name] for name in ends} == {"activations in float (sensitive)"}
    asked = make().eval()
    gz.quantize_(asked, **options, overrides={name: {"activations": "int8"} for name in ends})
    assert ends <= rounding(asked).keys()


def test_other_modes_compute_with_the_weights_alone_and_copies_with_their_own():
    model = tiny_unet().eval()
    plain = copy.deepcopy(model)
    gz.quantize_(model, bits=8, activations="int8")
    gz.quantize_(plain, bits=8, method="mse_clip", method_options={"levels": "integers"})
    integers = run(model)
    with computing(model, "dequantized"):
        assert torch.equal(run(model), integers)
    gz.set_compute_(model, "dequantized")
    assert torch.equal(run(model), run(plain)) and not torch.equal(run(model), integers)
    gz.set_compute_(model, "int8")
    copied = copy.deepcopy(model)
    for layer in rounding(copied).values():
        layer.weight_scale.zero_()
    assert torch.equal(run(model), integers) and not torch.equal(run(copied), integers)


def test_memory_is_packed_codes_and_one_copy_in_int8():
    layer = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1)).eval()
    gz.quantize_(layer, bits=4, activations="int8", activation_range="dynamic", headroom=0)
    before = held_bytes(layer)
    with torch.no_grad():
        for size in (8, 16):
            layer(torch.randn(2, 128, size, size))
    assert held_bytes(layer) - before <= 128 * 128 * 9 + 8 * 128 * 4


def test_processors_without_vnni_compute_the_same(monkeypatch):
    model, inputs = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).eval(), torch.randn(2, 16, 8, 8)
    gz.quantize_(model, bits=8, activations="int8", activation_inputs=given(inputs), headroom=0)
    with torch.no_grad():
        expected = model(inputs)
        monkeypatch.setattr(int8, "onednn_is_exact", lambda: False)
        assert int8.kernels("cpu") == "reference"
        gz.set_compute_(model, "int8")  # prepares anew
        assert (model(inputs) - expected).abs().max() < 1e-4 * expected.abs().max()  # a rounding step is 1/127 of it


def test_gradients_are_those_of_rounded_inputs_within_the_range():
    torch.manual_seed(0)
    for layer, shape in ((nn.Linear(6, 5), (3, 6)), (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5))):
        model = nn.Sequential(layer).eval()
        gz.quantize_(model, bits=8, activations="int8", activation_range="dynamic", headroom=0)
        exact = copy.deepcopy(model)
        gz.dequantize_(exact)
        x = torch.randn(shape)
        seed = torch.randn(exact(x).shape)
        grads = []
        for side in (model, exact):
            given = x.clone().requires_grad_()
            output = side(given)
            grads.append(torch.autograd.grad(output, [given, side[0].bias], seed))
        for found, expected in zip(*grads):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = tiny_unet().eval()
    full = run(model)
    gz.quantize_(model, bits=8, activations="int8", activation_range="dynamic")
    found = run(model.to(dtype)).float()
    assert rounding(model)
    assert 10 * torch.log10(full.square().mean() / (found - full).square().mean()) > 20


@pytest.mark.process
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["unet", "stylegan2"])
def test_compiles_in_one_graph(name, grad):
    model = {"unet": tiny_unet, "stylegan2": tiny_generator}[name]().eval()
    gz.quantize_(model, bits=8, activations="int8")
    args, kwargs = example_inputs(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(grad):
        expected = model(*args, **kwargs, return_dict=False)[0]
        found = compiled(*args, **kwargs, return_dict=False)[0]
    assert torch.equal(found, expected)
    if grad:
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sides = [torch.autograd.grad(output.sum(), wanted, allow_unused=True) for output in (found, expected)]
        assert all(a is b is None or torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*sides))


@pytest.mark.process
@pytest.mark.parametrize("name", sorted(TINY))
def test_every_architecture_with_integer_layers(name):
    model = TINY[name]().eval()
    full = run(model)
    try:
        gz.quantize_(model, bits=8, activations="int8", headroom=0)
    except ValueError as error:
        assert "no layer can compute with integers" in str(error)
        return
    assert torch.isfinite(run(model)).all() and not torch.equal(run(model), full)
