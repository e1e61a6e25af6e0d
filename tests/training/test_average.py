# SPDX-License-Identifier: Apache-2.0
"""The average of the weights: each step counts as much as it should, and a short run leaves its start behind."""

import logging
import math

import pytest
import torch

from hf_ganzip.training.average import WeightAverage, half_life_of, update_ema_


@pytest.mark.parametrize("half_life, rampup", [(40.0, 0.0), (40.0, 0.05), (40.0, 0.5), (1e9, 0.05), (0.0, 0.0)])
def test_what_each_step_counts(half_life, rampup):
    """Read off unit vectors: the n-th is the network's weight after step n, the first its start."""
    steps = 30
    units = torch.eye(steps + 1, dtype=torch.float64)[:, None]
    network = torch.nn.Linear(steps + 1, 1, bias=False)
    network.weight.data = units[0]
    average = WeightAverage(network, 8, half_life, rampup)
    for step in range(1, steps + 1):
        network.weight.data = units[step]
        average.update_(network, step)

    def decay(n):  # in closed form: 0.5 ** (images of a step / half-life)
        now = min(half_life, rampup * 8 * n) if rampup else half_life
        return 0.5 ** (8 / now) if now else 0.0

    wanted = [math.prod(map(decay, range(1, steps + 1)))]
    wanted += [(1 - decay(n)) * math.prod(map(decay, range(n + 1, steps + 1))) for n in range(1, steps + 1)]
    assert average.model.weight[0].tolist() == pytest.approx(wanted, abs=1e-12) and sum(wanted) == pytest.approx(1)
    assert average.share_of_start(steps) == pytest.approx(wanted[0], abs=1e-12)


def test_decay_as_half_life():
    for decay in (0.0, 0.5, 0.9999):
        assert WeightAverage(torch.nn.Identity(), 32, half_life_of(decay, 32), 0).decay(7) == pytest.approx(decay)


@pytest.mark.parametrize("steps, warned", [(120, True), (4000, True), (4200, False)])
def test_an_average_that_is_much_its_start_warns(caplog, steps, warned):
    with caplog.at_level(logging.WARNING):
        WeightAverage(torch.nn.Identity(), 8, 10_000, rampup=0).warn_of_start(steps)
        WeightAverage(torch.nn.Identity(), 8, 10_000).warn_of_start(steps)
    assert len(caplog.messages) == warned
    assert not warned or "set ema_rampup to 0.05" in caplog.text and "half-life is 10000 images" in caplog.text
    assert steps != 120 or "will be 94 % starting point after the 960 images" in caplog.text


@pytest.mark.parametrize("buffers, mean", [(False, 5.0), (True, 1.25)])
def test_buffers_are_copied_or_averaged(buffers, mean):
    model, average = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    torch.nn.init.constant_(model.weight, 2.0)
    model.running_mean.fill_(5.0)
    model.num_batches_tracked.fill_(7)
    update_ema_(average, model, 0.75, buffers=buffers)
    assert torch.equal(average.weight, torch.full((3,), 1.25))
    assert torch.equal(average.running_mean, torch.full((3,), mean)) and average.num_batches_tracked == 7
