# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="batch_size is 10; with group_size=4 it must be a multiple"):
        ClassGroupedBatchSampler(torch.zeros(40), 10, 4)
    with pytest.raises(ValueError, match="6 images of 3 classes fill no batch of 4"):
        ClassGroupedBatchSampler(torch.arange(6) % 3, 4, 4)
