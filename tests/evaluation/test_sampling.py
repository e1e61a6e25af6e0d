# SPDX-License-Identifier: Apache-2.0
"""Samples of GANs, and of diffusion models by DDIM with the papers' timesteps; evaluations of both."""

import pytest
import torch
from diffusers import DDIMScheduler

from hf_ganzip.core.seeding import sample_generators
from hf_ganzip.evaluation.diffusion_sampling import ddim_timesteps, sample_diffusion
from hf_ganzip.evaluation.evaluate import evaluate, measure
from hf_ganzip.evaluation.sampling import sample_images, sampling_conditions
from hf_ganzip.images import to_uint8

from ..conftest import tiny_discriminator, tiny_generator, tiny_unet


pytestmark = pytest.mark.processor


def test_images_depend_on_seed_and_index_only():
    model = tiny_generator().train()
    before = model.mapping.w_avg.clone()
    images, labels = sample_images(model, 7, seed=3, batch_size=3, progress=False)
    again, _ = sample_images(model, 5, seed=3, batch_size=5, progress=False)
    assert images.dtype == torch.uint8 and images.shape == (7, 3, 16, 16)
    assert (images[:5].int() - again.int()).abs().max() <= 1  # rounding of float differences between batch sizes
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    rest, rest_labels = sample_images(model, 3, seed=3, first=4, progress=False)
    assert (images[4:].int() - rest.int()).abs().max() <= 1 and rest_labels.tolist() == [1, 2, 0]
    other, _ = sample_images(model, 5, seed=4, progress=False)
    assert not torch.equal(again, other)
    assert model.training and torch.equal(model.mapping.w_avg, before), "statistics were gathered"


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
    assert whole.shape == (5, 3, 8, 8) and whole.dtype == torch.uint8


def test_one_class_for_all_images():
    model = tiny_unet(num_class_embeds=3)
    images, labels = sample_images(model, 3, class_label=2, steps=3, progress=False)
    assert labels.tolist() == [2, 2, 2]
    turns, _ = sample_images(model, 3, steps=3, progress=False)
    assert torch.equal(images[2], turns[2]) and not torch.equal(images[1], turns[1])


@pytest.mark.parametrize(
    "build, options, message",
    [
        (tiny_unet, {"class_label": 0}, "class_label is 0; the model has 0 classes"),
        (tiny_generator, {"class_label": 3}, "class_label is 3; the model has 3 classes"),
        (tiny_unet, {"truncation_psi": 0.5}, "truncation_psi is 0.5; a diffusion model has no truncation"),
        (tiny_unet, {"num_samples": 0}, "num_samples is 0"),
        (tiny_generator, {"num_samples": -1}, "num_samples is -1"),
        (tiny_discriminator, {}, "StyleGAN2Discriminator is no GAN generator"),
    ],
)
def test_what_cannot_be_sampled_is_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        sample_images(build(), **{"num_samples": 2} | options)


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


def pixels(images):
    return images.flatten(1).float()


def test_measure_seeds_the_hyperplanes():
    real, generated = torch.randn(40, 4), torch.randn(30, 4)
    a, b, c = (measure(real=real, generated=generated, metrics=["lsh_precision_recall"], seed=s) for s in (0, 0, 1))
    assert a == b != c


def test_evaluate_samples_a_diffusion_model_as_it_is_told():
    def mean(*, real, generated):
        return {"mean": float(generated.mean())}

    model, reference = tiny_unet(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    call = {"metrics": [mean], "num_samples": 3, "extractor": pixels}
    found = {}
    for steps, clip in ((3, False), (3, True), (30, False)):
        options = {"steps": steps, "clip_sample": clip, "progress": False}
        report = evaluate(model, reference, options=options, **call)
        images, _ = sample_images(model, 3, steps=steps, clip_sample=clip, progress=False)
        assert report.metrics["mean"]["mean"] == pytest.approx(float(images.float().mean()))
        assert report.conditions["clip_sample"] is clip and "truncation_psi" not in report.conditions
        assert report.conditions["n_real"] == 4 and report.conditions["extractor"] == "function"
        assert "mean" in str(report)
        found[steps, clip] = report.conditions["steps"]
    assert found == {(3, False): 4, (3, True): 4, (30, False): 31}
    with pytest.raises(ValueError, match="a diffusion model has no truncation"):
        evaluate(model, reference, options={"truncation_psi": 0.5, "progress": False}, **call)


def test_conditions_hold_nothing_that_does_not_apply():
    features = torch.randn(20, 3)
    report = evaluate(features, features, metrics=["knn_precision_recall"])
    assert not {"truncation_psi", "steps", "clip_sample"} & report.conditions.keys()
    for option in ({"truncation_psi": 0.5}, {"steps": 10}, {"clip_sample": True}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is for models; tensor is none"):
            evaluate(features, features, metrics=["knn_precision_recall"], options=option)


def test_an_option_for_one_metric_only():
    real, generated = torch.randn(40, 4), torch.randn(30, 4)
    metrics = ["knn_precision_recall", "density_coverage"]
    both, one = (
        measure(real=real, generated=generated, metrics=metrics, metric_options=options)
        for options in ({"k": 2}, {"knn_precision_recall.k": 2})
    )
    default = measure(real=real, generated=generated, metrics=metrics)
    assert one["knn_precision_recall"] == both["knn_precision_recall"] != default["knn_precision_recall"]
    assert one["density_coverage"] == default["density_coverage"] != both["density_coverage"]
    for wrong in ("density_coverage.draws", "frechet_distance.k", "real"):
        with pytest.raises(ValueError, match=f"has the option {wrong}"):
            measure(real=real, generated=generated, metrics=metrics, metric_options={wrong: 2})
