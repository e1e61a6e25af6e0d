# SPDX-License-Identifier: Apache-2.0
"""Features of one set of images, or of samples of one model, by several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

from ..metrics.accumulate import gather_states
from .extractors import extract_features, load_extractor
from .sampling import sample_images
from .streams import ImageStream


def extract_features_sharded(
    images: Tensor | ImageStream,
    extractor: str | Callable[[Tensor], Tensor],
    accelerator: Accelerator,
    *,
    batch_size: int = 256,
    **options: Any,
) -> Tensor:
    """:func:`.extract_features` shared out over the processes of ``accelerate launch``; each gets all features.

    Each process takes consecutive whole batches, so that the batches, and with them every bit, are the same for any
    number of processes of equal devices and threads.

    Args:
        images: As for :func:`.extract_features`, the same on every process; all of them must call this.
        extractor: As for :func:`.load_extractor`; a name is loaded on the device of the process.
        accelerator: Of the processes that share the work.
        batch_size: Images per call, >= 1.
        **options: ``progress`` (shown by the main process only) and ``cache``.

    Returns:
        float32 (N, d) on the CPU.

    Raises:
        TypeError: As :func:`.extract_features`.
        ValueError: As :func:`.extract_features`.
    """
    call = load_extractor(extractor, accelerator.device)
    start, stop = _share(len(images), batch_size, accelerator)
    options["progress"] = options.get("progress", True) and accelerator.is_main_process
    found = {}
    if start < stop or accelerator.num_processes == 1:
        found = {"features": extract_features(images[start:stop], call, batch_size=batch_size, **options)}
    return _gathered(found)


def sample_features_sharded(
    model: ModelMixin,
    num_samples: int,
    extractor: str | Callable[[Tensor], Tensor],
    accelerator: Accelerator,
    *,
    first: int = 0,
    batch_size: int = 100,
    progress: bool = True,
    **options: Any,
) -> Tensor:
    """Features of samples of a model, made by the processes of ``accelerate launch``; each gets all of them.

    Sample i depends on ``(seed, i)`` only, and each process takes consecutive whole batches: the bits are the same for
    any number of processes of equal devices and threads.

    Args:
        model: As for :func:`.sample_images`, on the device of the process.
        num_samples: Number of samples of all processes together, >= 1.
        extractor: As for :func:`.load_extractor`; a name is loaded on the device of the process.
        accelerator: Of the processes that share the work; all of them must call this.
        first: Index of the first sample.
        batch_size: Samples per forward pass, >= 1.
        progress: Whether the main process shows its progress.
        **options: ``seed``, ``steps`` and others of :func:`.sample_images`.

    Returns:
        float32 (num_samples, d) on the CPU.

    Raises:
        ValueError: As :func:`.sample_images` and :func:`.extract_features`.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; allowed are 1 and more.")
    call = load_extractor(extractor, accelerator.device)
    start, stop = _share(num_samples, batch_size, accelerator)
    found = {}
    if start < stop:
        shown = {"batch_size": batch_size, "progress": progress and accelerator.is_main_process}
        images = sample_images(model, stop - start, first=first + start, **shown, **options)[0]
        found = {"features": extract_features(images, call, **shown)}
    return _gathered(found)


def _share(count: int, batch_size: int, accelerator: Accelerator) -> tuple[int, int]:
    """Consecutive whole batches for this process: (start, stop)."""
    batches, processes, rank = -(-count // batch_size), accelerator.num_processes, accelerator.process_index
    start, stop = (min(batches * each // processes * batch_size, count) for each in (rank, rank + 1))
    return start, stop


def _gathered(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([shard["features"].cpu() for shard in gather_states(found) if shard])
