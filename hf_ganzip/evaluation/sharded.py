# SPDX-License-Identifier: Apache-2.0
"""Features of one set of images by several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..metrics.accumulate import gather_states
from .extractors import extract_features, load_extractor


def extract_features_sharded(
    images: Tensor,
    extractor: str | Callable[[Tensor], Tensor],
    accelerator: Accelerator,
    *,
    batch_size: int = 256,
    **options: Any,
) -> Tensor:
    """:func:`.extract_features` shared out over the processes of ``accelerate launch``; every process gets all features.

    Each process takes consecutive whole batches, so that the batches, and with them every bit, are the same for any number of
    processes of equal devices and threads.

    Args:
        images: uint8 (N, C, H, W), the same on every process; all of them must call this.
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
    batches = -(-len(images) // batch_size)
    bounds = [
        min(batches * rank // accelerator.num_processes * batch_size, len(images))
        for rank in range(accelerator.num_processes + 1)
    ]
    mine = images[bounds[accelerator.process_index] : bounds[accelerator.process_index + 1]]
    options["progress"] = options.get("progress", True) and accelerator.is_main_process
    found = {}
    if len(mine) or accelerator.num_processes == 1:
        found = {"features": extract_features(mine, call, batch_size=batch_size, **options)}
    return torch.cat([shard["features"].cpu() for shard in gather_states(found) if shard])
