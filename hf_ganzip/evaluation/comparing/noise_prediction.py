# SPDX-License-Identifier: Apache-2.0
"""How far the predictions of two denoisers on the same inputs lie apart, by timestep; outputs that are no numbers."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


Key = tuple[str, float]  # name of the denoiser, timestep


class Replay:
    """While :meth:`recording`, every call of the original's denoisers is repeated with the candidate's.

    Both see the states of the original's trajectory, so that errors of earlier steps do not add up. Where a pipeline
    calls its denoiser for both halves of classifier-free guidance, both predictions count, before they are combined.

    Args:
        original: Name -> denoiser.
        candidate: The same names.

    Attributes:
        signal: (name, timestep) -> one tensor (B,) a batch, float64: sums of squares of the original's predictions, by
            image.
        noise: The same of the differences.
        seconds: What the repeated calls took.
    """

    def __init__(self, original: Mapping[str, nn.Module], candidate: Mapping[str, nn.Module]) -> None:
        self.original, self.candidate = original, candidate
        self.signal: dict[Key, list[Tensor]] = {}
        self.noise: dict[Key, list[Tensor]] = {}
        self.seconds = 0.0
        self._busy = False  # the two may be one

    @contextlib.contextmanager
    def recording(self, count: int) -> Iterator[None]:
        """Within the context ``count`` images are drawn at once."""
        batch: dict[Key, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for name, network in self.original.items():
                hooks.enter_context(network.register_forward_hook(self._repeat(name, count, batch), with_kwargs=True))
            yield
        for key, (signal, noise) in batch.items():
            self.signal.setdefault(key, []).append(signal)
            self.noise.setdefault(key, []).append(noise)

    def _repeat(self, name: str, count: int, batch: dict[Key, Tensor]) -> Any:
        other = self.candidate[name]

        def repeat(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._busy:
                return
            self._busy, start = True, time.perf_counter()
            expected, step = prediction(output), timestep_of(module, args, kwargs)
            try:
                dtypes = getattr(module, "dtype", None), getattr(other, "dtype", None)
                args, kwargs = _cast(args, *dtypes), _cast(kwargs, *dtypes)
                found = prediction(other(*args, **kwargs))
            finally:
                self._busy = False
            expected, found = expected.cpu().double(), found.cpu().double()
            sums = torch.stack([by_image(expected, count), by_image(expected - found, count)])
            key = (name, float(len(batch)) if step is None else step)
            batch[key] = batch[key] + sums if key in batch else sums
            self.seconds += time.perf_counter() - start

        return repeat

    def sums(self) -> tuple[Tensor, Tensor, list[Key]]:
        """Signal and noise, (N, T) each, and what the columns are."""
        keys = list(self.signal)
        signal, noise = (
            torch.stack([torch.cat(sums[key]) for key in keys], dim=1) for sums in (self.signal, self.noise)
        )
        return signal, noise, keys


def by_image(values: Tensor, count: int) -> Tensor:
    """Sums of squares (count,) of predictions (rows, ...), whose row r belongs to image r modulo ``count``; of other
    numbers of rows, to all alike.
    """
    rows = values.flatten(1).square().sum(dim=1)
    return rows.sum().expand(count) / count if len(rows) % count else rows.view(-1, count).sum(dim=0)


@contextlib.contextmanager
def refusing_nonfinite(role: str, networks: Mapping[str, nn.Module], first: int) -> Iterator[None]:
    """Raise ValueError at the end of the context if a network gave NaN or infinity; images count from ``first``."""
    names = {network: name or type(network).__name__ for name, network in networks.items()}
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
    flags: list[Tensor] = []  # looked at in the end: an accelerator need not wait

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((module, args, kwargs))
        flags.append(torch.isfinite(prediction(output)).flatten(1).all(dim=1))

    with contextlib.ExitStack() as hooks:
        for network in networks.values():
            hooks.enter_context(network.register_forward_hook(look, with_kwargs=True))
        yield
    for call, finite in zip(calls, flags):
        if not bool(finite.all()):
            step = timestep_of(*call)
            at = f" at timestep {step:g}" if step is not None else ""
            raise ValueError(
                f"compare: {role}: {names[call[0]]} gave NaN or infinity{at} for {int((~finite).sum())} of "
                f"{len(finite)} inputs, in the batch that begins with image {first}. There is nothing to compare; "
                "look at its scales, or compute in float32 or bfloat16 (dtype)."
            )


def prediction(output: Any) -> Tensor:
    """The tensor of an output of a network: itself, or the first that it holds; a list of equal ones stacked."""
    while not isinstance(output, Tensor):
        first = output[0]
        same = isinstance(output, list) and len({getattr(each, "shape", None) for each in output}) == 1
        output = torch.stack(output) if same and isinstance(first, Tensor) else first
    return output


def timestep_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float | None:
    """The timestep in the arguments of a denoiser, of several that of the first input; None if there is none."""
    given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    found = next((given[name] for name in ("timestep", "timesteps", "t") if name in given), None)
    if found is None:
        return None
    return float(found.flatten()[0] if isinstance(found, Tensor) else found)


def _cast(value: Any, expected: torch.dtype | None, dtype: torch.dtype | None) -> Any:
    """Arguments with tensors of ``expected`` in ``dtype``, where the two networks differ in it."""
    if isinstance(value, Tensor):
        return value.to(dtype) if expected != dtype and value.dtype == expected else value
    if isinstance(value, dict):
        return {name: _cast(each, expected, dtype) for name, each in value.items()}
    return type(value)(_cast(each, expected, dtype) for each in value) if type(value) in (list, tuple) else value
