# SPDX-License-Identifier: Apache-2.0
"""StyleGAN3: the official network's values, its filters, and the filtered activation against its plain formulation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal

from hf_ganzip.models import StyleGAN3Generator
from hf_ganzip.models import stylegan3_layers as activations
from hf_ganzip.models import stylegan3_layers as filters

from ..conftest import tiny_stylegan3
from .golden import close, load_golden, part


pytestmark = pytest.mark.processor


@pytest.fixture(scope="module")
def golden():
    options, weights, io = load_golden("stylegan3_t")
    config = options["g"]
    same = ("z_dim", "w_dim", "channel_base", "channel_max", "num_layers", "num_critical")
    others = {"resolution": config["img_resolution"], "mapping_layers": config["mapping_kwargs"]["num_layers"]}
    generator = StyleGAN3Generator(**others, **{name: config[name] for name in same})
    return generator.eval(), part(weights, "G."), io


def test_filters_are_the_official_ones(golden):
    generator, weights, _ = golden
    own = StyleGAN3Generator(**generator.config).state_dict()
    names = [name for name in weights if name.endswith("_filter")]
    assert len(names) == 12
    for name in names:
        close(own[name], weights[name], 1e-7)


@pytest.mark.parametrize("limit", [0, 160], ids=["convolutions", "matrices"])
@torch.no_grad()
def test_official_values(golden, limit, monkeypatch):
    monkeypatch.setattr(activations, "_MATRIX_LIMIT", limit)
    generator, weights, io = golden
    generator.load_state_dict(weights)
    close(generator.mapping(io["z"]), io["ws"])
    close(generator(io["z"]).sample, io["img"])
    close(generator(io["z"], truncation_psi=0.7).sample, io["img_trunc"])


@pytest.mark.parametrize("taps, cutoff, width, rate", [(12, 2.0, 9.3, 64), (24, 3.4, 14.0, 128), (6, 16.0, 4.6, 64)])
def test_lowpass_filter_is_scipys(taps, cutoff, width, rate):
    expected = signal.firwin(taps, cutoff, width=width, fs=rate)
    np.testing.assert_allclose(filters.lowpass_filter(taps, cutoff, width, rate).numpy(), expected, atol=1e-7)


def test_radial_filter_is_symmetric_and_sums_to_one():
    kernel = filters.lowpass_filter(12, 4.0, 8.0, 64, radial=True)
    assert kernel.shape == (12, 12) and float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    for other in (kernel.T, kernel.flip(0), kernel.flip(1)):
        close(kernel, other, 1e-7)
    along, diagonal = kernel[5:7].sum(0), torch.fft.fft2(kernel).abs()
    assert along.argmax() in (5, 6) and diagonal[0, 0] == diagonal.max()


def plain_activation(x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp):
    """The definition, step by step, with two-dimensional filters."""

    def convolved(x, kernel):
        if kernel is None:
            return x
        kernel = kernel if kernel.ndim == 2 else torch.outer(kernel, kernel)
        channels = x.shape[1]
        return F.conv2d(x, kernel.flip(0, 1).expand(channels, 1, -1, -1).to(x), groups=channels)

    x = x + bias[:, None, None]
    batch, channels, size, _ = x.shape
    spread = torch.zeros(batch, channels, size * up, size * up, dtype=x.dtype)
    spread[:, :, ::up, ::up] = x
    before, after = padding
    x = convolved(F.pad(spread, (before, after, before, after)), up_filter) * (up**2 if up_filter is not None else 1)
    x = (F.leaky_relu(x, slope) * gain).clamp(-clamp, clamp)
    return convolved(x, down_filter)[:, :, ::down, ::down]


@pytest.mark.parametrize("limit", [0, 160], ids=["convolutions", "matrices"])
@pytest.mark.parametrize("radial", [False, True], ids=["separable", "radial"])
@pytest.mark.parametrize("up, down, padding", [(2, 2, (8, 9)), (4, 2, (-9, -6)), (4, 2, (3, 4)), (1, 1, (0, 0))])
def test_filtered_activation_equals_its_definition(limit, radial, up, down, padding, monkeypatch):
    monkeypatch.setattr(activations, "_MATRIX_LIMIT", limit)
    up_filter = filters.lowpass_filter(6 * up if up > 1 else 1, 4.0, 9.0, 64)
    down_filter = filters.lowpass_filter(6 * down if down > 1 else 1, 4.0, 9.0, 64, radial=radial)
    x, bias = torch.randn(2, 3, 14, 14, requires_grad=True), torch.randn(3)
    options = {"gain": 1.4, "slope": 0.2, "clamp": 1.0}
    expected = plain_activation(x, bias, up_filter, down_filter, up, down, padding, **options)
    activation = activations.FilteredActivation(14, up, down, padding)
    with torch.no_grad():  # in place
        close(activation(x.clone(), bias, up_filter, down_filter, **options), expected, 2e-6)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    (found,) = torch.autograd.grad(activation(x, bias, up_filter, down_filter, **options).square().sum(), x)
    close(found, wanted, 1e-4)


def test_a_filter_that_was_loaded_later_is_used():
    activation = activations.FilteredActivation(8, 2, 2, (8, 9))
    kernel = filters.lowpass_filter(12, 4.0, 9.0, 64)
    x, bias, options = torch.randn(1, 1, 8, 8), torch.zeros(1), {"gain": 1.0, "slope": 0.2, "clamp": None}
    with torch.no_grad():
        before = activation(x, bias, kernel, kernel, **options)
        kernel.mul_(2)
        after = activation(x, bias, kernel, kernel, **options)
    close(after, before * 16, 1e-4)


def test_r_has_pointwise_convolutions_and_radial_filters():
    generator = StyleGAN3Generator(
        resolution=16, num_layers=4, channel_base=64, channel_max=8, kernel_size=1, radial_filters=True
    ).eval()
    first = getattr(generator.synthesis, generator.synthesis.layer_names[0])
    last = getattr(generator.synthesis, generator.synthesis.layer_names[-2])
    assert first.weight.shape[2:] == (1, 1) and first.down_filter.ndim == 2 and last.down_filter.ndim == 1
    assert torch.isfinite(generator(torch.randn(2, 512)).sample).all()


@torch.no_grad()
def test_moving_the_input_moves_the_image(golden):
    """What the network is for: a shift of the Fourier features by whole pixels is a shift of the image, away from the
    border.
    """
    generator, weights, io = golden
    generator.load_state_dict(weights)
    ws = io["ws"][:1]
    first = generator.synthesize(ws)
    generator.synthesis.input.transform[0, 2] = 4 / 32  # of the image, which has 32 pixels
    second = generator.synthesize(ws)
    inner = slice(10, -10)
    moved = min(
        float((second[..., inner, inner] - first.roll(shift, dims=3)[..., inner, inner]).square().mean())
        for shift in (-4, 4)
    )
    unmoved = float((second[..., inner, inner] - first[..., inner, inner]).square().mean())
    assert moved < 0.1 * unmoved


def test_magnitudes_move_where_asked_the_same_under_gradient_checkpointing():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        generator = tiny_stylegan3()
        layers = [getattr(generator.synthesis, name) for name in generator.synthesis.layer_names]
        ws = generator.mapping(torch.ones(2, 8), torch.arange(2)).detach().requires_grad_(True)
        generator.synthesize(ws)
        assert all(layer.magnitude_ema == 1 for layer in layers)
        if checkpointing:
            generator.enable_gradient_checkpointing()
        generator.synthesize(ws, update_magnitude=True).square().sum().backward()
        found.append((torch.stack([layer.magnitude_ema for layer in layers]), ws.grad))
    assert (found[0][0] != 1).all() and torch.equal(found[0][0], found[1][0])
    close(found[0][1], found[1][1], 1e-6, relative=1e-5)


@pytest.mark.parametrize("resolution", [16, 256])
@pytest.mark.parametrize("upsampling", [1, 2])
@torch.no_grad()
def test_one_critical_layer_makes_whole_images(resolution, upsampling):
    config = {"resolution": resolution, "num_critical": 1, "lrelu_upsampling": upsampling, "margin_size": 10}
    generator = tiny_stylegan3(channels=(4,) * 5, **config)
    sample = generator(torch.randn(1, 8), torch.tensor([0])).sample
    assert sample.shape == (1, 3, resolution, resolution) and torch.isfinite(sample).all()
