# SPDX-License-Identifier: Apache-2.0
"""Computing with integers: every kernel gives what the same integers give in float64, of every kind of layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization import int8
from hf_ganzip.quantization.integers import integer_weight
from hf_ganzip.quantization.packed import packed_modules


LAYERS = {
    "linear": (lambda: nn.Linear(19, 7), (3, 19)),
    "linear of tokens": (lambda: nn.Linear(16, 24, bias=False), (2, 5, 16)),
    "conv": (lambda: nn.Conv2d(17, 19, 3, padding=1), (2, 17, 9, 7)),
    "conv of one pixel": (lambda: nn.Conv2d(8, 1, 1), (1, 8, 1, 1)),
    "strided, dilated": (lambda: nn.Conv2d(6, 8, 3, stride=(2, 1), padding=(2, 1), dilation=(1, 2)), (2, 6, 11, 12)),
    "groups": (lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False), (2, 8, 6, 6)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 8, 8)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(5, 6, 3, stride=2), (2, 5, 4, 5)),
    "transposed, padded": (
        lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=(2, 3), padding=1, output_padding=(1, 2), groups=2),
        (2, 4, 5, 4),
    ),
    "transposed, wider than its kernel": (lambda: nn.ConvTranspose2d(3, 4, 2, stride=3), (1, 3, 4, 4)),
}
KERNELS = ["OneDNNProduct", "MatrixProduct", "ReferenceProduct"]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Every layer computes by this one, on the CPU."""
    cls = getattr(int8, request.param)
    if request.param == "OneDNNProduct" and not int8.onednn_is_exact():
        pytest.skip("oneDNN does not sum exactly on this processor")

    def chosen(device, taps):
        return int8.ReferenceProduct if cls is int8.MatrixProduct and taps and taps.groups > 1 else cls

    monkeypatch.setattr("hf_ganzip.quantization.integers.product_class", chosen)
    return cls


def rounded_layer(name, **options):
    """Layer in float64 with the rounded weight, packed layer, inputs."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = nn.Sequential(make()).eval()
    x = torch.randn(shape) + 0.3
    gz.quantize_(model, **{"bits": 8, "activations": "int8", "activation_range": "dynamic", "headroom": 0} | options)
    exact = copy.deepcopy(model)
    gz.dequantize_(exact)
    return exact[0].double(), model, x


def rounded_inputs(layer, x):
    """``x`` as uint8 codes stand for it, in float64."""
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    return (((x * scale.reciprocal()).round() + zero).clamp(0, 255).double() - zero.double()) * scale.double()


@pytest.mark.parametrize("bits, levels", [(8, "midtread"), (4, "midrise"), (3, "midtread"), (7, "midrise")])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_every_kernel_agrees_with_the_same_integers_in_float64(name, bits, levels, kernel):
    exact, model, x = rounded_layer(name, method="mse_clip", bits=bits, method_options={"levels": levels})
    inputs, unrounded = rounded_inputs(exact, x), exact(x.double())
    if getattr(exact, "padding_mode", "zeros") != "zeros":
        exact.padding_mode, exact.padding = "zeros", (0, 0)
    expected, found = exact(inputs), model(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert (found - unrounded).abs().max() > 1e-4 * expected.abs().max()  # inputs are rounded


def test_integers_are_exactly_the_weight():
    for bits in range(2, 9):
        for levels in ("midtread", "midrise") if bits < 8 else ("midtread",):
            _, model, _ = rounded_layer("conv", method="mse_clip", bits=bits, method_options={"levels": levels})
            codes, scale = integer_weight(model[0])
            assert codes.dtype == torch.int8
            assert torch.equal(codes.float() * scale[:, None, None, None], model[0].weight)
