# SPDX-License-Identifier: Apache-2.0
import types

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from hf_ganzip.training.run import TrainingRun
from hf_ganzip.training.sampler import ClassGroupedBatchSampler


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(60, 200), classes=st.integers(1, 4), groups=st.integers(1, 4), size=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_minibatch_groups_are_of_one_class_and_no_image_comes_twice(count, classes, groups, size, seed):
    labels = torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))
    sampler = ClassGroupedBatchSampler(labels, groups * size, size, seed)
    batches = list(sampler)
    assert len(batches) == len(sampler) > 0
    for batch in batches:
        assert len(batch) == groups * size
        for first in range(groups):
            assert len(set(labels[batch[first::groups]].tolist())) == 1
    flat = [index for batch in batches for index in batch]
    assert len(flat) == len(set(flat)) > count - classes * (size - 1) - groups * size


def test_order_is_a_function_of_seed_and_epoch():
    labels = torch.arange(40) % 4
    sampler = ClassGroupedBatchSampler(labels, 8, 4, seed=1)
    orders = []
    for epoch in (0, 0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[1] == orders[3] != orders[2]
    assert list(ClassGroupedBatchSampler(labels, 8, 4, seed=2)) != orders[0]


def test_every_epoch_has_an_order_of_its_own_on_several_processes():
    """What Accelerate makes of a loader for one of them does not pass the epoch on to our sampler; the loop does."""
    labels = torch.arange(80) % 4
    sampler = ClassGroupedBatchSampler(labels, 8, 4)
    loader = DataLoader(TensorDataset(torch.arange(80)), batch_sampler=sampler)
    loader = prepare_data_loader(loader, num_processes=2, process_index=0, put_on_device=False)
    run = types.SimpleNamespace(step=0, finished=False)
    seen = []
    for _, (indices,) in TrainingRun.batches(run, loader, sampler=sampler):
        seen.append(indices.tolist())
        run.step += 1
        run.finished = run.step == 2 * len(loader)
    epochs = seen[: len(loader)], seen[len(loader) :]
    assert len(loader) == 5 and sorted(epochs[0]) != sorted(epochs[1])
    for epoch, found in enumerate(epochs):
        sampler.set_epoch(epoch)
        assert found == list(sampler)[::2]


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="batch_size is 10; with group_size=4 it must be a multiple"):
        ClassGroupedBatchSampler(torch.zeros(40), 10, 4)
    with pytest.raises(ValueError, match="6 images of 3 classes fill no batch of 4"):
        ClassGroupedBatchSampler(torch.arange(6) % 3, 4, 4)
