# SPDX-License-Identifier: Apache-2.0
"""Learning rates over a training, and its length in steps."""

import math

import pytest
import torch

from hf_ganzip.training.run_config import LR_SCHEDULERS, RunConfig, make_scheduler


FACTORS = {  # (step, warm-up steps, all steps) -> of the learning rate
    "constant": lambda n, w, t: 1,
    "constant_with_warmup": lambda n, w, t: min(1, n / w),
    "linear": lambda n, w, t: n / w if n < w else (t - n) / (t - w),
    "cosine": lambda n, w, t: n / w if n < w else 0.5 * (1 + math.cos(math.pi * (n - w) / (t - w))),
    "cosine_with_restarts": lambda n, w, t: FACTORS["cosine"](n, w, t),
    "polynomial": lambda n, w, t: FACTORS["linear"](n, w, t),
    "linear_second_half": lambda n, w, t: 1 if n < t / 2 else 2 - 2 * n / t,
}


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_learning_rates(name):
    steps, warmup = 8, 0 if name in ("constant", "linear_second_half") else 2
    config = RunConfig("x", max_train_steps=steps, lr_scheduler=name, lr_warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, found = make_scheduler(optimizer, config), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([0.5 * FACTORS[name](n, warmup, steps) for n in range(steps)], abs=1e-6)


def test_length():
    assert RunConfig("x", max_train_steps=7).in_steps(3).max_train_steps == 7
    found = RunConfig("x", max_train_steps=7, num_train_epochs=2).in_steps(3)
    assert (found.max_train_steps, found.num_train_epochs) == (6, None)
