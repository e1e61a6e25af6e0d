# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2: values of the official networks and of the plain formulation, contracts of generator and discriminator."""

import pytest
import torch

from benchmarks._reference_stylegan2 import synthesize
from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator
from hf_ganzip.models.stylegan2_discriminator import minibatch_std

from ..conftest import changed, sources, state_of, tiny_discriminator, tiny_generator
from .golden import close, load_golden, part


pytestmark = pytest.mark.processor


@pytest.fixture(scope="module", params=["stylegan2_small_skip", "stylegan2_cond_clamp"])
def golden(request):
    """Generator and discriminator with the official networks' weights, and their inputs and outputs."""
    options, weights, io = load_golden(request.param)
    g, d = options["g"], options["d"]
    shared = {"resolution": g["img_resolution"], "image_channels": g["img_channels"], "num_classes": g["c_dim"]}
    given = {name: g["synthesis_kwargs"][name] for name in ("channel_base", "channel_max", "conv_clamp")}
    given |= {"z_dim": g["z_dim"], "w_dim": g["w_dim"], "mapping_layers": g["mapping_kwargs"]["num_layers"]}
    generator = StyleGAN2Generator(**shared, **given)
    given = {name: d[name] for name in ("channel_base", "channel_max", "architecture")}
    discriminator = StyleGAN2Discriminator(**shared, **given)
    generator.load_state_dict(part(weights, "G."))
    discriminator.load_state_dict(part(weights, "D."))
    return generator.eval(), discriminator.eval(), io


class TestOfficialValues:
    @torch.no_grad()
    def test_styles(self, golden):
        generator, _, io = golden
        close(generator.mapping(io["z"], io["c"]), io["ws"])
        truncated = generator.mapping(io["z"], io["c"], truncation_psi=0.7, truncation_cutoff=4)
        close(truncated, io["ws_trunc"])

    @pytest.mark.parametrize("gradients", [False, True])
    def test_images(self, golden, gradients):
        generator, _, io = golden
        with torch.set_grad_enabled(gradients):
            close(generator(io["z"], io["c"], noise_mode="const").sample, io["img"])
            close(generator(io["z"], io["c"], noise_mode="none").sample, io["img_nonoise"])
            close(generator(io["z"], io["c"], noise_mode="const", truncation_psi=0.7).sample, io["img_trunc"])

    @torch.no_grad()
    def test_logits(self, golden):
        _, discriminator, io = golden
        close(discriminator(io["img"], io["c"]).logits, io["logits"])


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("channels", [(16, 16, 8), ((12, 16), (10, 7), (5, 6))], ids=["widths", "pairs"])
def test_equals_one_weight_per_sample_and_grouped_convolutions(architecture, dtype, tolerance, channels):
    generator = tiny_generator(architecture=architecture, channels=channels, conv_clamp=1.5).to(dtype)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.normal_()
        ws = torch.randn(3, generator.num_ws, 8, dtype=dtype)
        before, kept = state_of(generator), ws.clone()
        for mode in ("const", "none"):
            found = generator.synthesize(ws, noise_mode=mode).to(dtype)
            close(found, synthesize(generator, ws, noise_mode=mode), tolerance)
    assert torch.equal(ws, kept) and not changed(before, generator)  # overwritten are its own tensors alone


@torch.no_grad()
def test_noise_starts_with_no_strength():
    generator, ws = tiny_generator(), torch.randn(3, 6, 8)
    assert torch.equal(generator.synthesize(ws, noise_mode="random"), generator.synthesize(ws, noise_mode="none"))


@torch.no_grad()
def test_truncation_zero_gives_the_mean_style_which_moves_in_training_only():
    generator, z, labels = tiny_generator(), torch.randn(2, 8), torch.arange(2)
    before = generator.mapping.w_avg.normal_().clone()
    ws = generator.mapping(z, labels, truncation_psi=0)
    assert torch.equal(ws, before.expand_as(ws))
    w = generator.mapping(z, labels)[:, 0]
    assert torch.equal(generator.mapping.w_avg, before)
    generator.train().mapping(z, labels)
    close(generator.mapping.w_avg, 0.995 * before + 0.005 * w.mean(0), 1e-6)


Z, LABELS = torch.zeros(2, 8), torch.zeros(2).long()


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((torch.zeros(2, 9), LABELS), {}, r"z has shape \(2, 9\); allowed is \(batch, 8\)"),
        ((Z,), {}, "class_labels is required: the model has 3 classes"),
        ((Z, torch.zeros(3).long()), {}, r"class_labels has shape \(3,\)"),
        ((Z, LABELS), {"noise_mode": "loud"}, "allowed are random, const, none"),
        ((Z, LABELS), {"generator": sources(0)}, "generator is a list of 1 for 2 samples"),
        ((Z, LABELS), {"generator": sources(0, 1, 2)}, "generator is a list of 3 for 2 samples"),
        ((Z, LABELS), {"truncation_cutoff": -1}, "truncation_cutoff is -1; allowed are 0 and more"),
    ],
)
def test_wrong_calls(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_generator()(*arguments, **options)
    with pytest.raises(ValueError, match="this model has num_classes=0"):
        tiny_generator(num_classes=0)(Z, LABELS)


@torch.no_grad()
def test_bfloat16_and_autocast_keep_mapping_and_image_in_float32(tmp_path):
    generator = tiny_generator()
    generator.save_pretrained(tmp_path)
    half = StyleGAN2Generator.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {p.dtype for p in half.mapping.parameters()} == {torch.float32}
    assert {p.dtype for p in half.synthesis.parameters()} == {torch.bfloat16}
    z, labels = torch.randn(4, 8), torch.arange(4) % 3
    expected = generator(z, labels, noise_mode="const").sample
    with torch.autocast("cpu", torch.bfloat16):
        mixed = generator(z, labels, noise_mode="const").sample
    for image in (half(z, labels, noise_mode="const").sample, mixed):
        assert image.dtype == torch.float32 and not torch.equal(image, expected)
        assert (image - expected).abs().mean() < 0.02 * expected.abs().mean()


@pytest.mark.parametrize("architecture", ["skip", "orig"])
def test_every_parameter_of_the_discriminator_gets_a_gradient(architecture):
    discriminator = tiny_discriminator(architecture=architecture)
    discriminator(torch.randn(4, 3, 16, 16), torch.arange(4) % 3).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_minibatch_deviation_by_hand():
    x = torch.randn(6, 2, 4, 4)
    result = minibatch_std(x, 3)
    assert result.shape == (6, 3, 4, 4) and torch.equal(result[:, :2], x)
    for first in (0, 1):  # groups are samples first, first + 2, first + 4
        group = x[first::2]
        deviation = (group.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(result[first::2, 2], deviation.expand(3, 4, 4))
    assert torch.equal(minibatch_std(x[:3], 4), minibatch_std(x[:3], 3))  # a small batch is one group


def test_logits_of_a_sample_alone_without_minibatch_deviation():
    discriminator = tiny_discriminator(mbstd_group_size=1)
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5) % 3
    together = discriminator(images, labels).logits
    close(torch.cat([discriminator(i[None], c[None]).logits for i, c in zip(images, labels)]), together, 1e-5)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        ((4, 3, 8, 8), (4,), r"images has shape \(4, 3, 8, 8\); allowed is \(batch, 3, 16, 16\)"),
        ((4, 3, 16, 16), None, "class_labels is required"),
        ((6, 3, 16, 16), (6,), "batch size 6 is not a multiple of mbstd_group_size=4"),
    ],
)
def test_wrong_calls_of_the_discriminator(images, labels, message):
    with pytest.raises(ValueError, match=message):
        tiny_discriminator()(torch.zeros(images), None if labels is None else torch.zeros(labels).long())


def test_derivatives_of_the_discriminator_agree_with_finite_differences():
    discriminator = tiny_discriminator(resolution=8, channels=(4, 4), num_classes=0, image_channels=1).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def logits(x):
        return discriminator(x).logits

    assert torch.autograd.gradcheck(logits, images)
    assert torch.autograd.gradgradcheck(logits, images)
