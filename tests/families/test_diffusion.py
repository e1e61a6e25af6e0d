# SPDX-License-Identifier: Apache-2.0
"""Calibration inputs of diffusion models."""

import dataclasses
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import hf_ganzip as gz
from hf_ganzip.families import family_of, recorded_inputs
from hf_ganzip.families.autoencoder import smooth_images

from ..conftest import tiny_unet
from ..tiny_diffusion import ALL, autoencoder, conditional_unet, flux, output, sd3, wan, xl_unet


STEPS = 20  # batches of one trajectory


def seen_in(passes, count):
    """What the first ``count`` calibration passes give a model: (state, timesteps, conditions)."""
    found = []

    def record(state, timestep, return_dict, **conditions):
        found.append((state, timestep, conditions))
        return (state,)

    for forward in itertools.islice(passes, count):
        forward(record)
    return found


def inputs_of(model, count, batch_size=3, seed=0):
    """:func:`seen_in` with the one timestep of each batch."""
    found = seen_in(family_of(model).calibration(model, batch_size, seed), count)
    assert all(time.shape == (batch_size,) and len(time.unique()) == 1 for _, time, _ in found)
    return [(state, float(timestep[0]), conditions) for state, timestep, conditions in found]


def test_classes_and_texts_are_random():
    found = inputs_of(tiny_unet(num_class_embeds=5), 4 * STEPS + 1)[::STEPS]
    labels = torch.stack([conditions["class_labels"] for _, _, conditions in found])
    assert labels.shape == (5, 3) and len(labels.unique()) > 2 and labels.min() >= 0 and labels.max() < 5
    found = inputs_of(conditional_unet(), STEPS + 1)[::STEPS]
    texts = [conditions["encoder_hidden_states"] for _, _, conditions in found]
    assert texts[0].shape == (3, 8, 12)
    assert not torch.equal(texts[0][0], texts[0][1]) and not torch.equal(texts[0], texts[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_model_and_condition_has_repeatable_passes(name):
    model = ALL[name]()
    assert len(output(model)) == 2
    starts = {}
    for seed in (0, 0, 2**32):
        (forward,) = itertools.islice(family_of(model).calibration(model, 3, seed), 2, 3)
        first, again = forward(model), forward(model)
        assert len(first) == 3 and torch.isfinite(first).all() and torch.equal(first, again)
        assert seed not in starts or torch.equal(starts[seed], first)
        starts[seed] = first
    assert not torch.equal(starts[0], starts[2**32])


@torch.no_grad()
@pytest.mark.parametrize("make, scale", [(sd3, 1000), (wan, 1000), (flux, 1)])
def test_flows_are_those_of_the_scheduler_of_diffusers(make, scale):
    model = make()
    found = sorted(inputs_of(model, STEPS, batch_size=1), key=lambda each: -each[1])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    state = found[0][0]
    for (expected, timestep, conditions), other in zip(found, scheduler.timesteps):
        assert timestep == pytest.approx(float(other) * scale / 1000, rel=1e-5)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)
        velocity = model(expected, timestep=torch.tensor([timestep]), return_dict=False, **conditions)[0]
        state = scheduler.step(velocity, other, state).prev_sample


def test_what_is_told_about_the_picture_stays_and_texts_are_drawn():
    (_, _, first), (_, _, second) = inputs_of(xl_unet(), STEPS + 1)[::STEPS]
    assert torch.equal(first["added_cond_kwargs"]["time_ids"], second["added_cond_kwargs"]["time_ids"])
    assert first["added_cond_kwargs"]["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 3
    assert not torch.equal(first["added_cond_kwargs"]["text_embeds"], second["added_cond_kwargs"]["text_embeds"])
    (_, _, first), (_, _, second) = inputs_of(flux(), STEPS + 1)[::STEPS]
    assert first["guidance"].tolist() == [3.5] * 3 and first["img_ids"].shape == (256, 3)
    assert torch.equal(first["img_ids"], second["img_ids"]) and first["img_ids"][-1].tolist() == [0, 15, 15]
    assert not torch.equal(first["pooled_projections"], second["pooled_projections"])


def test_channels_that_are_not_predicted_stay():
    states = [state for state, _, _ in inputs_of(conditional_unet(in_channels=9, out_channels=4), STEPS)]
    assert all(torch.equal(state[:, 4:], states[0][:, 4:]) for state in states)
    assert not any(torch.equal(state[:, :4], states[0][:, :4]) for state in states[1:])


def test_images_of_autoencoders_are_smooth_and_move_encoder_and_decoder():
    images = smooth_images((64, 3, 64, 64), torch.Generator().manual_seed(0))
    assert images.abs().max() <= 1 and 0.4 < images.std() < 0.5
    spectrum = torch.fft.rfft2(images)[:, :, 0].abs().square().mean(dim=(0, 1))
    assert 0.75 < float((spectrum[4] / spectrum[16]).sqrt() / 4) < 1.25  # amplitudes fall as 1 / frequency
    report = gz.sensitivity(autoencoder(), (2,), num_samples=2, progress=False)
    errors = {layer.name: layer.errors[2] for layer in report.layers}
    assert errors["encoder.conv_in"] > 1e-6 and errors["decoder.conv_in"] > 1e-6


def test_inputs_recorded_while_a_model_runs():
    model = torch.nn.Linear(6, 3)
    batches = [torch.randn(2, 6), torch.randn(4, 6)]
    inputs = recorded_inputs(model, lambda: [model(batch) for batch in batches])
    outputs = [forward(model) for forward in itertools.islice(inputs(model, 1, 0), 4)]
    for half in (outputs[:2], outputs[2:]):
        small, large = sorted(half, key=len)
        assert torch.equal(small, model(batches[0])) and torch.equal(large, model(batches[1]))
    assert not model._forward_pre_hooks
    with pytest.raises(ValueError, match="the Linear was not run"):
        recorded_inputs(model, lambda: None)


def test_sensitivity_takes_inputs_and_those_of_the_method():
    def inputs(model, batch_size, seed):
        while True:
            yield lambda module: module(torch.eye(6)[:batch_size])

    def build():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 5))

    with pytest.raises(ValueError, match="Sequential has no calibration inputs; give the method `inputs`"):
        gz.sensitivity(build(), (2,), progress=False)
    gptq = partial(gz.quantization.METHODS["gptq"], base="codebook", batches=4)
    plain = gz.QuantizeConfig("codebook", granularity="channel")
    found = {}
    for name, config, given in (
        ("plain", plain, inputs),
        ("gptq", dataclasses.replace(plain, method=gptq()), inputs),
        ("own", dataclasses.replace(plain, method=gptq(inputs=inputs)), None),
    ):
        report = gz.sensitivity(build(), (2,), config=config, num_samples=6, inputs=given, progress=False)
        found[name] = report.layers
    assert found["gptq"] == found["own"] != found["plain"] and found["plain"][0].errors[2] > 0


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_unet, conditional_unet, sd3, flux])
def test_mixed_batches_have_a_timestep_for_every_sample(make):
    """Training sees all of a trajectory at every step; states and timesteps are those of batches at one timestep."""
    model, family = make(), family_of(make())
    seen = seen_in(family.mixed(model, 3, 0), STEPS)
    times = torch.stack([timestep for _, timestep, _ in seen])
    assert all(len(times[:, sample].unique()) == STEPS for sample in range(3))
    assert any(len(row.unique()) > 1 for row in times)
    expected = {time: state for state, time, _ in inputs_of(model, STEPS)}
    for state, timestep, _ in seen:
        for sample, time in enumerate(timestep.tolist()):
            assert torch.equal(state[sample], expected[time][sample])
    first, again = (next(family.mixed(model, 3, 0))(model) for _ in range(2))
    assert torch.equal(first, again)
