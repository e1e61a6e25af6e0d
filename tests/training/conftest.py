# SPDX-License-Identifier: Apache-2.0
"""What the tests of the training loops share."""

import itertools
import math
import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs
from torch.utils.data import TensorDataset

from hf_ganzip.training.feature_quantizer import FeatureQuantizer


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture
def adam_steps(monkeypatch):
    """Learning rate and norm of the gradient of every step that Adam makes."""
    made, step = [], torch.optim.Adam.step

    def record(self, closure=None):
        (group,) = self.param_groups
        gradients = [p.grad.norm() for p in group["params"] if p.grad is not None]
        made.append((group["lr"], float(torch.stack(gradients).norm())))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    return made


def cpu_accelerator(**options):
    return Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        **options,
    )


def broken_at(call, function):
    """The function, whose loss at one of its calls is NaN."""
    calls = itertools.count(1)
    return lambda *args: function(*args) * (math.nan if next(calls) == call else 1)


def join_group(rank, count):
    """Let Accelerate find the process group that :func:`run_processes` has made."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")


def images(side=8, count=40, classes=2):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return TensorDataset(pixels, torch.arange(count) % classes)


def weights(networks):
    return {f"{i}.{k}": x.clone() for i, network in enumerate(networks) for k, x in network.state_dict().items()}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(value, right[name]) for name, value in left.items())


def close(left, right, rtol, atol=None):
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=rtol, atol=rtol if atol is None else atol, msg=name)


PLAIN = {"warmup_steps": 0, "anneal_steps": 0, "settle_steps": 0}
PLAIN |= {"init": "normal", "revive_below": 0.0, "follow": False}


def quantizer(dim=2, codes=2, embed=None, **options):
    """A feature quantizer of the equations alone."""
    made = FeatureQuantizer(dim, codes, **PLAIN | options)
    if embed is not None:
        made.embed.copy_(torch.tensor(embed))
        if made.init_state != "zero":
            made.embed_avg.copy_(made.embed)
    return made


def near(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=tolerance)
