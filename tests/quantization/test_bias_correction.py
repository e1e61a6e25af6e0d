# SPDX-License-Identifier: Apache-2.0
"""Biases that take the mean of rounding errors."""

import copy

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.core.modes import watching
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import refused, run, tiny_unet
from .conftest import given


def convolutions():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Flatten(2)]
    return nn.Sequential(*layers, nn.Linear(64, 5), nn.Linear(5, 5, bias=False)).eval()


@pytest.mark.parametrize("activations", [None, "int8"])
def test_outputs_of_every_layer_have_the_mean_of_the_originals_on_equal_inputs(activations):
    model, values = convolutions(), torch.rand(16, 3, 4, 4) + 1
    corrected, plain = copy.deepcopy(model), copy.deepcopy(model)
    options = {"bits": 3, "activations": activations, "activation_inputs": given(values), "headroom": 0}
    gz.quantize_(plain, **options)
    gz.quantize_(corrected, **options, bias_correction=True)
    for name, axes in {"0": (0, 2, 3), "2": (0, 2, 3), "4": (0, 1)}.items():
        layer, before, exact = (each.get_submodule(name) for each in (corrected, plain, model))
        assert torch.equal(layer.weight, before.weight) and torch.equal(before.bias, exact.bias)
        inputs = []
        with watching({name: before}, lambda _, module, args, output, inputs=inputs: inputs.append(args[0])):
            plain(values)  # layers are measured where none is corrected yet
        expected = exact(inputs[0]).mean(axes)
        torch.testing.assert_close(layer(inputs[0]).mean(axes), expected, rtol=1e-5, atol=1e-5)
        assert (before(inputs[0]).mean(axes) - expected).abs().max() > 1e-3


def test_what_was_tuned_stays_and_a_quantized_model_can_be_quantized_again():
    model = tiny_unet().eval()
    options = {"bits": 4, "method_options": {"steps": 2, "base": "codebook", "progress": False}}
    tuned = copy.deepcopy(model)
    gz.quantize_(tuned, "latent_distill", **options)
    gz.quantize_(model, "latent_distill", **options, bias_correction=True)
    assert torch.equal(run(model), run(tuned))
    gz.quantize_(model, bits=4, bias_correction=True, requantize=True)
    assert packed_modules(model) and torch.isfinite(run(model)).all()


def test_errors_leave_the_model_as_it_was():
    def breaking(model, batch_size, seed):
        yield lambda module: module(torch.rand(1, 3, 4, 4))
        raise RuntimeError("no more inputs")

    no_inputs = "biases are .* by running the model, and a Sequential has no inputs of its own; give activation_inputs"
    infinite = "outputs are NaN or infinite while biases are corrected: 0, 2, 4; nothing was changed"
    for options, message in (
        ({}, no_inputs),
        ({"activation_inputs": breaking}, "no more inputs"),
        ({"activation_inputs": given(torch.full((1, 3, 4, 4), torch.inf))}, infinite),
    ):
        model = convolutions()
        with refused(model, message, (ValueError, RuntimeError)):
            gz.quantize_(model, bits=4, bias_correction=True, **options)
        assert not model[0]._forward_hooks
