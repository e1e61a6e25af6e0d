# SPDX-License-Identifier: Apache-2.0
"""Style mixing, interpolation, class names: for every generator that has them."""

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.models.base import GeneratorMixin

from ..conftest import TINY, gan_pipeline, reopened, sources, tiny_biggan, tiny_generator, tiny_stylegan3


GENERATORS = [name for name, make in TINY.items() if isinstance(make(), GeneratorMixin)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_samples_saves_and_loads(name, packed, tmp_path):
    pipe = gan_pipeline(TINY[name]())
    if packed:
        gz.quantize_(pipe.generator, bits=4)
    options = {"noise_mode": "const", "output_type": "latent", "truncation_psi": 0.7}
    expected = pipe(3, generator=torch.Generator().manual_seed(1), **options).images
    assert torch.equal(
        reopened(pipe, tmp_path)(3, generator=torch.Generator().manual_seed(1), **options).images, expected
    )


@pytest.mark.parametrize("name", GENERATORS)
def test_image_i_depends_on_its_source_only(name):
    pipe = gan_pipeline(TINY[name]())
    with torch.no_grad():
        for parameter_name, parameter in pipe.generator.named_parameters():
            if parameter_name.endswith("noise_strength"):
                parameter.fill_(0.3)
    label = 1 if pipe.generator.config.num_classes else None
    options = {"output_type": "latent", "class_labels": label, "truncation_psi": 0.5}
    together = pipe(3, generator=sources(1, 2, 3), **options).images
    alone = pipe(1, generator=sources(2), **options).images
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    split = pipe(3, generator=sources(1, 2, 3), max_batch_size=2, **options).images
    torch.testing.assert_close(split, together, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("make", [tiny_generator, tiny_stylegan3])
def test_mixing_exchanges_styles_from_the_cutoff_on(make):
    pipe = gan_pipeline(make())
    z, other = torch.randn(2, 2, 8)
    options = {"class_labels": 0, "noise_mode": "const", "output_type": "latent"}
    plain, second = pipe(latents=z, **options).images, pipe(latents=other, **options).images
    mixed = pipe(latents=z, mixing_latents=other, mixing_cutoff=2, **options).images
    assert not torch.allclose(mixed, plain) and not torch.allclose(mixed, second)
    assert torch.equal(pipe(latents=z, mixing_latents=z, **options).images, plain)
    model = pipe.generator
    labels = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        ws = torch.cat([model.mapping(z, labels)[:, :2], model.mapping(other, labels)[:, 2:]], dim=1)
        assert torch.equal(model.synthesize(ws, noise_mode="const"), mixed)


def test_wrong_mixing_and_too_short_walks_are_refused():
    pipe, z = gan_pipeline(tiny_generator()), torch.randn(2, 8)
    for options, message in (
        ({"mixing_latents": z, "mixing_cutoff": 9}, "mixing_cutoff is 9; allowed are 1 to 5"),
        ({"mixing_latents": z[:1]}, "1 rows for 2 images"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(latents=z, **options)
    pipe = gan_pipeline(tiny_biggan())
    with pytest.raises(ValueError, match="BigGANGenerator has no styles"):
        pipe(latents=torch.randn(1, 12), mixing_latents=torch.randn(1, 12))
    for options, message in (({"num_keyframes": 1}, "1 samples, 16 steps"), ({"steps": 0}, "0 steps")):
        with pytest.raises(ValueError, match=message):
            pipe.interpolate(**options)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_walk_passes_through_its_samples_and_returns(name):
    pipe = gan_pipeline(TINY[name]())
    z = pipe.generator.draw_latents(3, torch.Generator().manual_seed(0))
    labels = [0, 2, 1] if pipe.generator.config.num_classes else None
    expected = pipe(latents=z, class_labels=labels, noise_mode="const", output_type="latent").images
    frames = pipe.interpolate(steps=4, latents=z, class_labels=labels, output_type="latent")
    assert len(frames) == 12
    torch.testing.assert_close(frames[::4], expected, rtol=0, atol=2e-5)
    open_ended = pipe.interpolate(steps=4, latents=z, class_labels=labels, loop=False, output_type="latent")
    torch.testing.assert_close(open_ended, frames[:8], rtol=0, atol=2e-5)
    steps = (frames[1:5] - frames[:4]).square().mean(dim=(1, 2, 3)).sqrt()
    assert steps.max() < 6 * steps.min()  # no jump between samples


def test_walks_keep_the_length_of_latents():
    from hf_ganzip.pipelines.gan import _on_great_circle

    first, second = torch.nn.functional.normalize(torch.randn(2, 5, 64), dim=2)
    middle = _on_great_circle(first, second, torch.full((5, 1), 0.5))
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(_on_great_circle(first, first, torch.full((5, 1), 0.3)), first)


def test_classes_by_name(tmp_path):
    pipe = gan_pipeline(tiny_biggan(), class_names=["shirt", "bag", "boot"])
    z = torch.randn(2, 12)
    by_id = pipe(latents=z, class_labels=[2, 0], output_type="latent").images
    assert torch.equal(pipe(latents=z, class_labels=["boot", "shirt"], output_type="latent").images, by_id)
    one = pipe(latents=z, class_labels="bag", output_type="latent").images
    assert torch.equal(one, pipe(latents=z, class_labels=1, output_type="latent").images)
    restored = reopened(pipe, tmp_path)
    assert torch.equal(restored(latents=z, class_labels="bag", output_type="latent").images, one)
    with pytest.raises(ValueError, match="no class 'hat'; known names: 'shirt', 'bag', 'boot'"):
        pipe(latents=z, class_labels="hat")
    with pytest.raises(ValueError, match="class_names has 2 entries; the generator has 3"):
        gz.GANPipeline(tiny_biggan(), class_names=["a", "b"])
    with pytest.raises(ValueError, match="ids outside 0 to 2"):
        pipe(latents=z, class_labels=[0, 3])
