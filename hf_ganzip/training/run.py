# SPDX-License-Identifier: Apache-2.0
"""What every training loop does beside training: count steps, write whole checkpoints, resume, stop cleanly, keep a log."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm


logger = logging.getLogger(__name__)

_LOG_EVERY = 50  # steps


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Options that every training loop has; images are counted over all processes."""

    output_dir: str
    max_train_steps: int = 10_000  # optimizer steps of each network
    train_batch_size: int = 32  # images per process and micro-step
    mixed_precision: str = "no"  # "no" or "bf16"; penalties and losses are always float32
    seed: int = 0
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int = 2
    validation_steps: int = 1000  # sample grids, and figures where there is a validator
    resume_from_checkpoint: str | None = None  # folder or "latest"

    def __post_init__(self):
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}; allowed are 'no' and 'bf16'.")
        if self.train_batch_size < 1 or self.max_train_steps < 1:
            raise ValueError(
                f"train_batch_size is {self.train_batch_size}, max_train_steps {self.max_train_steps}; allowed are 1 and more."
            )


class TrainingRun:
    """Steps, checkpoints and log of one run; saved with the training state.

    Args:
        accelerator: Whose state is saved: everything that was prepared or registered.
        config: Where checkpoints, ``log.jsonl`` (losses) and ``figures.jsonl`` (validation) go, how often, and where the run ends.
        images_per_step: Over all processes.
        extras: Folder -> writes models beside the state.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: RunConfig,
        images_per_step: int,
        extras: Callable[[Path], None],
    ):
        self.accelerator, self.config, self.extras = accelerator, config, extras
        self.output, self.images_per_step = Path(config.output_dir), images_per_step
        self.step = 0
        self.stop_requested = False

    @property
    def finished(self) -> bool:
        """No further step is to be made."""
        return self.stop_requested or self.step >= self.config.max_train_steps

    @property
    def images(self) -> int:
        """Images seen by all processes."""
        return self.step * self.images_per_step

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        """From the checkpoint."""
        self.step = state["step"]

    @contextlib.contextmanager
    def running(self) -> Iterator[tqdm]:
        """Progress bar; SIGTERM and SIGINT end the run after the current step, with a checkpoint."""
        handlers = {each: signal.signal(each, self.request_stop) for each in (signal.SIGTERM, signal.SIGINT)}
        self.clock = (time.monotonic(), self.step)
        bar = tqdm(
            total=self.config.max_train_steps,
            initial=self.step,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        try:
            yield bar
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
            bar.close()
        if self.stop_requested:
            self.save_checkpoint()
            logger.warning("stopped at step %d; continue with resume_from_checkpoint='latest'", self.step)
        self.accelerator.wait_for_everyone()

    def request_stop(self, *_: object) -> None:
        """Signal handler."""
        self.stop_requested = True

    def check_finite(self, losses: Mapping[str, Tensor]) -> None:
        """Stop before weights that came from a broken loss are averaged or stored.

        Raises:
            FloatingPointError: Names the terms.
        """
        bad = [name for name, value in losses.items() if not torch.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"training: {', '.join(bad)} is not finite at step {self.step + 1}; the last checkpoint is whole."
            )

    def advance(self, losses: Mapping[str, Tensor], bar: tqdm) -> None:
        """Count a step, log it, and write a checkpoint where one is due."""
        bar.update()
        if self.step % _LOG_EVERY == 1:
            values = {name: float(value) for name, value in losses.items()}
            then, start = self.clock
            rate = (self.step - start) * self.images_per_step / max(time.monotonic() - then, 1e-9)
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()} | {"images/s": f"{rate:.0f}"})
            self.accelerator.log(values | {"images_per_second": rate}, step=self.step)
            self.write_log(values)
        if self.step % self.config.checkpointing_steps == 0 or self.step == self.config.max_train_steps:
            self.save_checkpoint()

    def log_figures(self, found: Mapping[str, float]) -> None:
        """Figures of a validation, to ``figures.jsonl`` and the trackers."""
        self.write_log(found, "figures.jsonl")
        self.accelerator.log(dict(found), step=self.step)

    def write_log(self, values: Mapping[str, float], name: str = "log.jsonl") -> None:
        """One line of a log, by the main process."""
        if self.accelerator.is_main_process:
            with open(self.output / name, "a") as log:
                log.write(json.dumps({"step": self.step, "images": self.images, **values}) + "\n")

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [path for path in self.output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
        return sorted(found, key=lambda path: int(path.name.split("-")[1]))

    def save_checkpoint(self) -> None:
        """Write ``checkpoint-STEP`` under a temporary name and rename it, so that an interrupted save leaves no torso.

        Raises:
            OSError: The disk is full or cannot be written; what was there stays.
        """
        final = self.output / f"checkpoint-{self.step}"
        partial = self.output / "checkpoint.partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.extras(partial)
            self._discard(final)
            partial.rename(final)
            for old in self.checkpoints()[: -self.config.checkpoints_total_limit]:
                self._discard(old)
        self.accelerator.wait_for_everyone()

    def _discard(self, folder: Path) -> None:
        """Take away the name first: a deletion that is killed half-way leaves no torso under it either."""
        leftover = self.output / "checkpoint.old"
        shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists():
            folder.rename(leftover)
            shutil.rmtree(leftover)

    def resume(self) -> None:
        """Load the checkpoint folder of the config, or the latest one.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: The checkpoint belongs to another structure.
        """
        wanted = self.config.resume_from_checkpoint
        if not wanted:
            return
        if wanted == "latest":
            found = self.checkpoints()
            if not found:
                logger.warning("no checkpoint in %s; starting from step 0", self.output)
                return
            path = found[-1]
        else:
            path = Path(wanted)
            if not path.is_dir():
                raise FileNotFoundError(
                    f"resume_from_checkpoint: no folder {path}; use 'latest' or a checkpoint-STEP folder."
                )
        try:
            self.accelerator.load_state(str(path))
        except RuntimeError as error:
            raise ValueError(f"resume_from_checkpoint: {path} belongs to another network: {error}") from error


@torch.no_grad()
def update_ema_(average: nn.Module, model: nn.Module, decay: float, buffers: bool = False) -> None:
    """Move the parameters of ``average`` towards ``model``: a <- decay * a + (1 - decay) * m.

    Buffers are copied, or with ``buffers=True`` averaged in the same way.
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for target, source in zip(average.buffers(), model.buffers()):
        if buffers and target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, in the order of steps; of those that a resumed run wrote twice, the later. None where there is no file."""
    if not path.is_file():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    found = {row["step"]: row for row in rows}
    return [found[step] for step in sorted(found)]
