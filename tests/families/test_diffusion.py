# SPDX-License-Identifier: Apache-2.0
"""Calibration inputs of diffusion models."""

import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel

from hf_ganzip.families import family_of

from ..conftest import tiny_unet


STEPS = 20  # batches of one trajectory


def text_unet():
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
    ).eval()


def inputs_of(model, count, batch_size=3, seed=0):
    """What the first ``count`` calibration passes give a model: (state, timestep, conditions)."""
    found = []

    def record(state, timestep, return_dict, **conditions):
        found.append((state, int(timestep), conditions))
        return (state,)

    for forward in itertools.islice(family_of(model).calibration(model, batch_size, seed), count):
        forward(record)
    return found


def test_every_timestep_once_a_trajectory():
    found = inputs_of(tiny_unet(), 2 * STEPS)
    assert all(state.shape == (3, 3, 8, 8) for state, _, _ in found)
    for part in (found[:STEPS], found[STEPS:]):
        assert len({timestep for _, timestep, _ in part}) == STEPS


def test_classes_are_random():
    model = tiny_unet(num_class_embeds=5)
    labels = torch.stack([conditions["class_labels"] for _, _, conditions in inputs_of(model, 4 * STEPS + 1)[::STEPS]])
    assert labels.shape == (5, 3) and len(labels.unique()) > 2 and labels.min() >= 0 and labels.max() < 5


def test_texts_are_random():
    texts = [conditions["encoder_hidden_states"] for _, _, conditions in inputs_of(text_unet(), STEPS + 1)[::STEPS]]
    assert texts[0].shape == (3, 8, 12)
    assert not torch.equal(texts[0][0], texts[0][1]) and not torch.equal(texts[0], texts[1])


def test_inputs_repeat_under_a_seed_and_differ_between_seeds():
    model = tiny_unet(num_class_embeds=5)
    first, second, other = (inputs_of(model, 2, seed=seed)[1] for seed in (0, 0, 2**32))
    assert torch.equal(first[0], second[0]) and torch.equal(first[2]["class_labels"], second[2]["class_labels"])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("make", [tiny_unet, lambda: tiny_unet(num_class_embeds=5), text_unet])
def test_bfloat16_models_are_calibrated(make):
    model = make().to(torch.bfloat16)
    for forward in itertools.islice(family_of(model).calibration(model, 2, 0), 2):
        output = forward(model)
        assert output.dtype == torch.bfloat16 and torch.isfinite(output).all()
