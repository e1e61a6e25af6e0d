# SPDX-License-Identifier: Apache-2.0
"""Other processes of a test, forked from one that has done the slow imports and nothing else: groups of gloo, and
scripts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


_IMPORTED = ["accelerate", "diffusers", "hf_ganzip.evaluation.validation", "hf_ganzip.recipes", "hf_ganzip.training"]
multiprocessing.set_forkserver_preload(_IMPORTED)


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


def run_script(
    script: Path, *arguments: Any, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """``python SCRIPT ARGUMENTS`` on the CPU, without the seconds that its imports take."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    with tempfile.TemporaryDirectory() as folder:
        what = (str(script), tuple(map(str, arguments)), environment, str(cwd or Path.cwd()), folder)
        process = multiprocessing.get_context("forkserver").Process(target=_script, args=what)
        process.start()
        process.join()
        texts = [Path(folder, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    assert not check or process.exitcode == 0, texts[1]
    return subprocess.CompletedProcess(what[:2], process.exitcode, *texts)


def _script(script: str, arguments: tuple[str, ...], environment: Mapping[str, str], cwd: str, folder: str) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with open(Path(folder, name), "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def hf_ganzip(*arguments: Any, environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """The command in a fresh interpreter."""
    code = "import sys; from hf_ganzip.cli import main; sys.argv[0] = 'hf-ganzip'; main()"
    return subprocess.Popen(
        [sys.executable, *options.pop("python", ()), "-c", code, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
