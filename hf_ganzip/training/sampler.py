# SPDX-License-Identifier: Apache-2.0
"""Batches made of groups of one class, so that the minibatch standard deviation measures variety within a class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.seeding import derive_seed


class ClassGroupedBatchSampler:
    """Index batches whose minibatch groups i (positions i, i + n, ..., n = batch_size / group_size) are of one class.

    A discriminator with minibatch standard deviation over mixed classes hardly sees a collapse within a class; over
    groups of one class it does. Every epoch visits each image at most once; what does not fill a group or a batch is
    left out.

    Args:
        labels: Class ids (N,) int64.
        batch_size: Multiple of ``group_size``.
        group_size: ``mbstd_group_size`` of the discriminator.
        seed: The order is a function of ``(seed, epoch)``.

    Raises:
        ValueError: ``group_size`` does not divide ``batch_size``, or no batch can be filled.

    Example:
        >>> sampler = ClassGroupedBatchSampler(torch.tensor([0, 1, 0, 1]), batch_size=4, group_size=2)
        >>> [[index % 2 for index in batch] for batch in sampler] in ([[0, 1, 0, 1]], [[1, 0, 1, 0]])
        True
    """

    drop_last = True

    def __init__(self, labels: Tensor, batch_size: int, group_size: int, seed: int = 0):
        if batch_size % group_size:
            raise ValueError(
                f"batch_size is {batch_size}; with group_size={group_size} it must be a multiple of that."
            )
        self.batch_size, self.group_size, self.seed, self.epoch = batch_size, group_size, seed, 0
        self.members = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
        self.groups_per_batch = batch_size // group_size
        if not len(self):
            raise ValueError(f"{len(labels)} images of {len(self.members)} classes fill no batch of {batch_size}.")

    def __len__(self) -> int:
        return sum(len(members) // self.group_size for members in self.members) // self.groups_per_batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        groups = []
        for members in self.members:
            order = members[torch.randperm(len(members), generator=generator)]
            whole = len(order) // self.group_size * self.group_size
            groups.append(order[:whole].view(-1, self.group_size))
        mixed = torch.cat(groups)
        mixed = mixed[torch.randperm(len(mixed), generator=generator)]
        for start in range(0, len(self) * self.groups_per_batch, self.groups_per_batch):
            yield mixed[start : start + self.groups_per_batch].t().flatten().tolist()
