# SPDX-License-Identifier: Apache-2.0
"""Run a function in several gloo processes on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


# Processes are forks of one that has done these imports and nothing else.
torch.multiprocessing.set_forkserver_preload(
    ["accelerate", "diffusers.models.unets.unet_2d", "hf_ganzip.recipes", "hf_ganzip.evaluation.sharded"]
)


def run_processes(function: Callable[..., Any], count: int, folder: Path, *args: Any) -> list[Any]:
    """Results of ``function(rank, count, *args)`` of every rank; ``function`` must be importable."""
    arguments = (function, count, str(folder), args)
    torch.multiprocessing.start_processes(_process, arguments, nprocs=count, start_method="forkserver")
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(count)]


def _process(rank: int, function: Callable[..., Any], count: int, folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=count)
    torch.save(function(rank, count, *args), Path(folder, f"result-{rank}.pt"))
    torch.distributed.destroy_process_group()
