# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN2 generator: values of the official networks and of the plain formulation, and its contracts."""

import pytest
import torch

from benchmarks._reference_stylegan2 import synthesize
from hf_ganzip.models import StyleGAN2Discriminator, StyleGAN2Generator

from ..conftest import changed, sources, state_of, tiny_generator
from .golden import close, load_golden, part


pytestmark = pytest.mark.processor


@pytest.fixture(scope="module", params=["stylegan2_small_skip", "stylegan2_cond_clamp"])
def golden(request):
    """Generator and discriminator with the official networks' weights, and their inputs and outputs."""
    options, weights, io = load_golden(request.param)
    g, d = options["g"], options["d"]
    synthesis = g["synthesis_kwargs"]
    shared = {"resolution": g["img_resolution"], "image_channels": g["img_channels"], "num_classes": g["c_dim"]}
    generator = StyleGAN2Generator(
        **shared,
        z_dim=g["z_dim"],
        w_dim=g["w_dim"],
        mapping_layers=g["mapping_kwargs"]["num_layers"],
        channel_base=synthesis["channel_base"],
        channel_max=synthesis["channel_max"],
        conv_clamp=synthesis["conv_clamp"],
    )
    discriminator = StyleGAN2Discriminator(
        **shared, channel_base=d["channel_base"], channel_max=d["channel_max"], architecture=d["architecture"]
    )
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
        for mode in ("const", "none"):
            found = generator.synthesize(ws, noise_mode=mode).to(dtype)
            close(found, synthesize(generator, ws, noise_mode=mode), tolerance)


@torch.no_grad()
def test_noise_modes():
    generator, z, labels = tiny_generator(), torch.randn(3, 8), torch.arange(3)
    random, none = (generator(z, labels, noise_mode=mode).sample for mode in ("random", "none"))
    assert torch.equal(random, none)  # the strength starts at zero
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.5)
    const, none = (generator(z, labels, noise_mode=mode).sample for mode in ("const", "none"))
    assert not torch.allclose(const, none)
    assert torch.equal(const, generator(z, labels, noise_mode="const").sample)
    assert not torch.equal(generator(z, labels).sample, generator(z, labels).sample)


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


def test_labels_as_ids_or_rows():
    generator, z = tiny_generator(), torch.randn(3, 8)
    ids = torch.tensor([2, 0, 1])
    rows = torch.nn.functional.one_hot(ids, 3).float()
    assert torch.equal(generator.mapping(z, ids), generator.mapping(z, rows))


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


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_sampling_overwrites_nothing_but_its_own_tensors(architecture):
    generator = tiny_generator(architecture=architecture, conv_clamp=1.0)
    before, ws = state_of(generator), torch.randn(2, generator.num_ws, 8)
    kept = ws.clone()
    generator.synthesize(ws, noise_mode="const")
    assert torch.equal(ws, kept) and not changed(before, generator)


def test_tuple_instead_of_an_output_object():
    generator = tiny_generator()
    z, labels = torch.randn(1, 8), torch.zeros(1).long()
    (image,) = generator(z, labels, noise_mode="none", return_dict=False)
    assert torch.equal(image, generator(z, labels, noise_mode="none").sample)
