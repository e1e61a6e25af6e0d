# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.core.seeding import sample_generators

from ..conftest import changed, gan_pipeline, state_of, tiny_biggan, tiny_biggan_deep, tiny_generator, tiny_ugatit


pytestmark = pytest.mark.processor


@pytest.fixture
def pipe():
    return gan_pipeline(tiny_generator())


def test_output_types(pipe):
    random = sample_generators(0, 3)
    latent = pipe(3, generator=random, output_type="latent").images
    assert latent.shape == (3, 3, 16, 16) and latent.dtype == torch.float32
    pt = pipe(3, generator=sample_generators(0, 3), output_type="pt").images
    torch.testing.assert_close(pt, (latent / 2 + 0.5).clamp(0, 1))
    array = pipe(3, generator=sample_generators(0, 3), output_type="np", return_dict=False)[0]
    np.testing.assert_allclose(array, pt.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    images = pipe(3, generator=sample_generators(0, 3)).images
    np.testing.assert_array_equal(np.asarray(images[1]), np.round(array[1] * 255).astype(np.uint8))


def test_labels_and_latents(pipe):
    z = torch.randn(4, 8)
    by_default = pipe(latents=z, noise_mode="const", output_type="latent").images
    explicit = pipe(latents=z, class_labels=[0, 1, 2, 0], noise_mode="const", output_type="latent").images
    assert torch.equal(by_default, explicit)
    with pytest.raises(ValueError, match="class_labels has 2 entries for 4 images"):
        pipe(latents=z, class_labels=[0, 1])
    with pytest.raises(ValueError, match="allowed are pil, np, pt, latent"):
        pipe(1, output_type="jpg")


@pytest.mark.parametrize("make", [tiny_generator, tiny_biggan, tiny_biggan_deep])
@pytest.mark.parametrize("count, sources", [(5, 3), (2, 3), (2, 1)])
def test_a_list_of_generators_has_one_per_image(make, count, sources):
    pipe = gan_pipeline(make())
    z = torch.randn(count, pipe.generator.config.z_dim)
    for call, options in ((pipe, {"latents": z}), (pipe.interpolate, {"num_keyframes": count})):
        with pytest.raises(ValueError, match=f"generator is a list of {sources} for {count} samples"):
            call(**options, generator=sample_generators(0, sources))


@pytest.mark.parametrize("make", [tiny_generator, tiny_biggan])
def test_sampling_is_in_eval_mode_and_leaves_the_mode_alone(make):
    pipe = gan_pipeline(make())
    z = torch.randn(2, pipe.generator.config.z_dim)
    options = {"latents": z, "output_type": "latent"}

    def images():
        return pipe(noise_mode="const", **options).images, pipe.interpolate(steps=2, **options)

    expected = images()
    before = state_of(pipe.generator)
    pipe.generator.train()
    found = images()
    assert pipe.generator.training and not changed(before, pipe.generator)
    assert all(torch.equal(*pair) for pair in zip(found, expected))


def test_truncation_without_effect_is_refused():
    """BigGAN truncates when latents are drawn; BigGAN-deep and StyleGANs also when they are used."""
    pipe = gan_pipeline(tiny_biggan())
    z = pipe.generator.draw_latents(2, torch.Generator().manual_seed(0), truncation_psi=0.5)
    drawn = pipe(2, generator=torch.Generator().manual_seed(0), truncation_psi=0.5, output_type="latent").images
    assert torch.equal(pipe(latents=z, output_type="latent").images, drawn)
    for call in (pipe, pipe.interpolate):
        with pytest.raises(ValueError, match="truncation_psi is 0.5, but BigGANGenerator truncates only latents"):
            call(latents=z, truncation_psi=0.5)


def test_a_network_without_latents_is_refused():
    with pytest.raises(ValueError, match="UGATITGenerator draws no latents"):
        gz.GANPipeline(tiny_ugatit())
