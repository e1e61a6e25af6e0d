# SPDX-License-Identifier: Apache-2.0
"""DDIM with the papers' timesteps."""

import pytest
import torch
from diffusers import DDIMScheduler

from hf_ganzip.core.seeding import sample_generators
from hf_ganzip.evaluation.diffusion_sampling import ddim_timesteps, sample_diffusion
from hf_ganzip.evaluation.sampling import sample_images, sampling_conditions
from hf_ganzip.images import to_uint8

from ..conftest import tiny_generator, tiny_unet


pytestmark = pytest.mark.processor


def test_timesteps_of_the_papers():
    quad = ddim_timesteps(100, "quad")
    assert len(quad) == 100 and quad[:10] == [0, 0, 0, 0, 1, 2, 2, 3, 5, 6] and quad[-2:] == [783, 800]
    assert len(set(quad)) == 96
    assert ddim_timesteps(100, "uniform") == list(range(0, 1000, 10))
    for steps, spacing in ((0, "quad"), (1001, "quad"), (10, "x")):
        with pytest.raises(ValueError, match="allowed are"):
            ddim_timesteps(steps, spacing)


@torch.no_grad()
@pytest.mark.parametrize("clip", [False, True])
def test_agrees_with_diffusers(clip):
    model = tiny_unet()
    images, labels = sample_images(model, 3, seed=5, steps=10, clip_sample=clip, progress=False)
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, clip_sample=clip, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    state = torch.cat([torch.randn(1, 3, 8, 8, generator=each) for each in sample_generators(5, 3)])
    for timestep in scheduler.timesteps:
        noise = model(state, timestep).sample
        state = scheduler.step(noise, timestep, state, use_clipped_model_output=clip).prev_sample
    difference = (images.int() - to_uint8(state).int()).abs()
    assert labels is None and int(difference.max()) <= 1
    other, _ = sample_images(model, 3, seed=5, steps=10, clip_sample=not clip, progress=False)
    assert not torch.equal(images, other)


def test_images_depend_on_their_number_only():
    model = tiny_unet(num_class_embeds=2).train()
    whole, labels = sample_diffusion(model, 5, steps=3, progress=False)
    parts, _ = sample_diffusion(model, 5, steps=3, batch_size=2, progress=False)
    assert (whole.int() - parts.int()).abs().max() <= 1 and labels.tolist() == [0, 1, 0, 1, 0] and model.training
    again, _ = sample_images(tiny_unet(), 2, progress=False)
    assert again.shape == (2, 3, 8, 8) and again.dtype == torch.uint8
    with pytest.raises(ValueError, match="num_samples is 0"):
        sample_diffusion(model, 0)


def test_one_class_for_all_images():
    model = tiny_unet(num_class_embeds=3)
    images, labels = sample_images(model, 3, class_label=2, steps=3, progress=False)
    assert labels.tolist() == [2, 2, 2]
    turns, _ = sample_images(model, 3, steps=3, progress=False)
    assert torch.equal(images[2], turns[2]) and not torch.equal(images[1], turns[1])


@pytest.mark.parametrize(
    "classes, options, message",
    [
        (None, {"class_label": 0}, "class_label is 0; the model has 0 classes"),
        (3, {"class_label": 3}, "class_label is 3; the model has 3 classes"),
        (None, {"truncation_psi": 0.5}, "truncation_psi is 0.5; a diffusion model has no truncation"),
    ],
)
def test_options_that_a_network_does_not_have_are_refused(classes, options, message):
    with pytest.raises(ValueError, match=message):
        sample_images(tiny_unet(num_class_embeds=classes), 2, **options)


def test_conditions_name_what_decides_the_images():
    assert sampling_conditions(tiny_unet(), steps=30) == {"steps": 31, "clip_sample": False}
    assert sampling_conditions(tiny_generator(), truncation_psi=0.7) == {"truncation_psi": 0.7}


@pytest.mark.parametrize("build", [tiny_unet, tiny_generator])
def test_modes_are_restored_after_an_error(build):
    model = build().train()
    frozen = next(module for module in model.modules() if not list(module.children()))
    frozen.eval()
    before = [module.training for module in model.modules()]
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_images(model, 2, progress=False)
    assert [module.training for module in model.modules()] == before
