# SPDX-License-Identifier: Apache-2.0
"""What the streaming metrics share: batches by side, merging, saving, and gathering over processes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from .inputs import as_matrix, check_finite


class Rows:
    """All rows of one side in the order of their arrival, in the dtype they came in."""

    fields = ("rows",)

    def __init__(self, *batches: Tensor) -> None:
        if batches[0].ndim != 2:
            raise ValueError(f"rows has shape {tuple(batches[0].shape)}; allowed is (n, d).")
        self.batches = batches
        self.count = sum(map(len, batches))
        self.dim = batches[0].shape[1]
        self.device = batches[0].device

    @classmethod
    def of(cls, rows: Tensor) -> Rows:
        return cls(rows.clone())  # the caller may reuse its buffer

    def merged(self, other: Rows) -> Rows:
        return Rows(*self.batches, *(batch.to(self.device) for batch in other.batches))

    def joined(self) -> Tensor:
        """All rows (n, d)."""
        if len(self.batches) > 1:
            self.batches = (torch.cat(self.batches),)
        return self.batches[0]

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.joined()}


class Accumulator:
    """Base of the streaming metrics: give batches to `update`, then ask `compute`.

    A subclass names its ``sides`` and the ``summary`` that it keeps of each: a class made from the tensors named in its
    ``fields``, with ``of(rows)``, ``merged(other)``, ``tensors()``, ``count`` and ``dim``, never changed in place. A
    side stays on the device of its first batch.
    """

    sides: ClassVar[tuple[str, ...]] = ("real", "generated")
    summary: Any = Rows

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}

    def compute(self) -> dict[str, Any]:
        """The metric of all that was given so far; more may be given afterwards."""
        raise NotImplementedError

    def update(self, **batches: Any) -> Any:
        """Take in one batch of any of the sides, by keyword.

        Args:
            **batches: Side -> array or tensor (n, d) of numbers, n >= 0. Sides need not come together nor in equal
                numbers.

        Returns:
            The accumulator itself.

        Raises:
            TypeError: Unknown side, or a batch is no array.
            ValueError: A batch is not (n, d), has NaN or infinity, or another dimension than those before. Nothing was
                taken in.
        """
        unknown = sorted(set(batches) - set(self.sides))
        if unknown or not batches:
            raise TypeError(
                f"{type(self).__name__}.update: got {', '.join(unknown) or 'nothing'}; allowed are the keywords "
                f"{', '.join(self.sides)}."
            )
        rows = {side: as_matrix(side, batch) for side, batch in batches.items()}
        for side, batch in rows.items():
            check_finite(side, batch)
        self._check_dims({side: batch.shape[1] for side, batch in rows.items()})
        summaries = {side: self._summarize(side, batch) for side, batch in rows.items() if len(batch)}
        for side, summary in summaries.items():
            self._absorb(side, summary)
        return self

    def merge(self, other: Accumulator) -> Any:
        """Take in all that ``other`` has seen, as if its batches came after ours; ``other`` stays, our options hold.

        Raises:
            TypeError: ``other`` is another metric.
            ValueError: The dimensions differ. Nothing was taken in.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"{type(self).__name__}.merge: got {type(other).__name__}; allowed is another {type(self).__name__}."
            )
        self._check_dims({side: summary.dim for side, summary in other._held.items()})
        self._check_foreign("merge", other._held)
        for side, summary in other._held.items():
            self._absorb(side, summary)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen, as tensors named ``SIDE.FIELD``, without the options; empty before the first batch."""
        return {
            f"{side}.{field}": tensor
            for side, summary in self._held.items()
            for field, tensor in summary.tensors().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Any:
        """Replace what was seen by ``state``; the options stay.

        Raises:
            ValueError: The names or shapes are not those of `state_dict`, or the dimensions differ. Nothing was
                replaced.
        """
        sides = [side for side in self.sides if any(name.startswith(f"{side}.") for name in state)]
        fields = self.summary.fields
        if {f"{side}.{field}" for side in sides for field in fields} != set(state):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: got {', '.join(sorted(state))}; allowed are, for each side of "
                f"{', '.join(self.sides)}, all of {', '.join(f'SIDE.{field}' for field in fields)}."
            )
        held = {side: self.summary(*(state[f"{side}.{field}"] for field in fields)) for side in sides}
        Accumulator()._check_dims({side: summary.dim for side, summary in held.items()})
        self._check_foreign("load_state_dict", held)
        self._held = held
        return self

    def reduce(self) -> Any:
        """A new accumulator of what all processes have seen, the same on every one, merged in the order of their ranks.

        Every process of the default ``torch.distributed`` group must call it, also those without a batch. Without an
        initialised group it is a copy. This accumulator stays as it is, so that reducing twice counts nothing twice.
        """
        total = copy.copy(self)
        total._held = {}
        for state in gather_states(self.state_dict()):
            total.merge(copy.copy(self).load_state_dict(state))
        return total

    def _count(self, side: str) -> int:
        return self._held[side].count if side in self._held else 0

    def _summarize(self, side: str, batch: Tensor) -> Any:
        """Summary of one batch (n, d), n >= 1."""
        return self.summary.of(batch)

    def _absorb(self, side: str, summary: Any) -> None:
        self._held = self._held | {side: self._held[side].merged(summary) if side in self._held else summary}

    def _check_foreign(self, where: str, held: Mapping[str, Any]) -> None:
        """Raise ValueError for summaries by side that were made under other options than ours, where these matter."""

    def _check_dims(self, dims: dict[str, int]) -> None:
        known = next((summary.dim for summary in self._held.values()), None)
        for side, dim in dims.items():
            known = known or dim
            if dim != known:
                raise ValueError(
                    f"{side} has dimension {dim}, what came before has dimension {known}; all must come from the same "
                    f"feature extractor."
                )


def gather_states(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of all processes in rank order, exactly, whatever shapes and dtypes; every process gets them all."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    plans: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(plans, {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()})
    states: list[dict[str, Tensor]] = [{} for _ in plans]
    for rank, plan in enumerate(plans):
        for name, (shape, dtype) in plan.items():
            tensor = state[name] if rank == dist.get_rank() else torch.empty(shape, dtype=dtype)
            tensor = tensor.to(device).contiguous()
            dist.broadcast(tensor.reshape(-1).view(torch.uint8), src=rank)  # bytes: every backend sends them
            states[rank][name] = tensor
    return states
