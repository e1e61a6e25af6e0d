# SPDX-License-Identifier: Apache-2.0
"""How the processes of one `evaluate` metric bring together what they hold: torch.distributed where it runs, files of
a shared folder elsewhere.

Files carry the token of one meeting: process 0 makes it, the others sign it before anybody goes on. What a process
left that died is of another token and is never read. Processes that wait for one that died raise after ``timeout``
seconds.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import torch.distributed as dist
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..metrics.accumulate import gather_states


class ProcessExchange:
    """One process of ``count``.

    Args:
        folder: That all processes see; used if torch.distributed is not initialized with this rank and number of
            processes.
        experiment: Names the evaluation among others in that folder.
        rank: 0 to ``count`` - 1.
        count: Processes.
        timeout: Seconds to wait for the others.
    """

    def __init__(self, folder: str | Path, experiment: str, rank: int, count: int, timeout: float) -> None:
        self.folder = Path(folder, f"{quote(experiment, safe='')}-{count}")
        self.experiment, self.rank, self.count, self.timeout = experiment, rank, count, timeout
        self._lock: FileLock | None = None
        self._token = ""

    @property
    def distributed(self) -> bool:
        """Whether torch.distributed has this process at this place."""
        started = dist.is_available() and dist.is_initialized()
        return started and (dist.get_rank(), dist.get_world_size()) == (self.rank, self.count)

    def join(self) -> None:
        """Meet the other processes, once for every :meth:`gather`; by torch.distributed nobody has to meet.

        Raises:
            ValueError: Another evaluation has the same place, or a process did not come.
        """
        if self._lock is not None or self.distributed:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{self.rank}.lock", thread_local=False)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            raise ValueError(
                f"experiment_id {self.experiment}: another evaluation is process {self.rank} of {self.count} of it, "
                f"in {self.folder}, or waits there for one that died; give each evaluation an experiment_id of its "
                "own."
            ) from None
        self._lock = lock
        try:
            self._meet_all() if self.rank == 0 else self._meet_first()
        except BaseException:
            self._leave()
            raise

    def gather(self, state: dict[str, Tensor]) -> list[dict[str, Tensor]] | None:
        """What all processes hold, by rank, on process 0; None on the others. Every process must call it.

        Raises:
            ValueError: As :meth:`join`, or a process ended before it gave what it holds.
        """
        if self.distributed:
            states = gather_states(state)
            return states if self.rank == 0 else None
        self.join()
        try:
            if self.rank:
                partial = self._file(self.rank, "partial")
                save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
                partial.replace(self._file(self.rank, "safetensors"))
                return None
            found = [self._file(rank, "safetensors") for rank in range(1, self.count)]
            self._wait(
                lambda: all(path.exists() for path in found), found, "gave nothing: it died, or never called compute"
            )
            states = [state, *map(load_file, found)]
            for path in found:
                path.unlink()
            return states
        finally:
            self._leave()

    def _meet_all(self) -> None:
        self._token = uuid.uuid4().hex
        partial = self.folder / f"token-{self._token}.partial"
        partial.write_text(self._token)
        partial.replace(self._given)
        for path in self.folder.iterdir():  # of those that died
            if path.suffix in (".signed", ".safetensors", ".partial") and self._token not in path.name:
                path.unlink(missing_ok=True)
        signed = [self._file(rank, "signed") for rank in range(1, self.count)]
        self._wait(lambda: all(path.exists() for path in signed), signed, "did not come: each must add or compute")
        for path in signed:
            path.unlink()

    def _meet_first(self) -> None:
        """Sign the token, again if there is a new one; process 0 takes the signatures away once all are there."""

        def met() -> bool:
            token = self._read_token()
            if token and token != self._token:
                self._token = token
                self._file(self.rank, "signed").touch()
            return bool(token) and not self._file(self.rank, "signed").exists() and self._read_token() == token

        self._wait(met, [self._file(0, "signed")], "did not come: each must add or compute")

    def _wait(self, done: Callable[[], bool], paths: list[Path], what: str) -> None:
        end = time.monotonic() + self.timeout
        while not done():
            if time.monotonic() > end:
                lacking = ", ".join(path.name.partition("-")[0] for path in paths if not path.exists())
                raise ValueError(
                    f"experiment_id {self.experiment}: process {lacking} of {self.count} {what} (waited "
                    f"{self.timeout:g} s; timeout= of evaluate.load changes that). Nothing was computed."
                )
            time.sleep(0.02)

    def _leave(self) -> None:
        if self.rank == 0:
            self._given.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
        self._lock, self._token = None, ""

    @property
    def _given(self) -> Path:
        return self.folder / "token"

    def _read_token(self) -> str:
        try:
            return self._given.read_text()
        except FileNotFoundError:
            return ""

    def _file(self, rank: int, kind: str) -> Path:
        """Of one process at this meeting."""
        return self.folder / f"{rank}-{self._token}.{kind}"
