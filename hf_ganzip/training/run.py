# SPDX-License-Identifier: Apache-2.0
"""What every training loop does beside training: count steps, write whole checkpoints, resume, stop, keep a log."""

from __future__ import annotations

import contextlib
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
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from ..core.modes import evaluating
from .average import WeightAverage
from .run_config import RunConfig, make_scheduler


logger = logging.getLogger(__name__)


class TrainingRun:
    """Steps, checkpoints and log of one run, whose loop is a subclass; saved with the training state.

    Args:
        accelerator: Whose state is saved: everything that was prepared or registered.
        config: Where checkpoints, ``log.jsonl`` (losses) and ``figures.jsonl`` (validation) go, how often, and where
            the run ends.
        trained: The network that grids and figures are made of, unwrapped.
        images_per_step: Over all processes.
        average: Of its weights, if the loop has one.
        validate: Network -> figures.

    Raises:
        ValueError: The accelerator has a mixed precision, or an accumulation that the loop does not follow.
    """

    accumulates = True  # whether the loop follows the accelerator's gradient accumulation
    average_folder = ""  # of the average, in a checkpoint

    def __init__(
        self,
        accelerator: Accelerator,
        config: RunConfig,
        trained: nn.Module,
        images_per_step: int,
        average: WeightAverage | None = None,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    ):
        if accelerator.mixed_precision != "no":
            raise ValueError(
                f"training: the Accelerator's mixed_precision is {accelerator.mixed_precision!r}; allowed is 'no'. "
                "Set mixed_precision in the config of the loop."
            )
        if not self.accumulates and accelerator.gradient_accumulation_steps != 1:
            raise ValueError(
                "training: the Accelerator's gradient_accumulation_steps is "
                f"{accelerator.gradient_accumulation_steps}; allowed is 1: this loop does not follow it."
            )
        self.accelerator, self.config, self.images_per_step = accelerator, config, images_per_step
        self.trained, self.average, self.validate = trained, average, validate
        self.output = Path(config.output_dir)
        self.output.mkdir(parents=True, exist_ok=True)
        self.step = 0
        self.schedulers: dict[str, LambdaLR] = {}
        self.signalled = self.stopped = False

    def save_models(self, folder: Path) -> None:
        """Write what can be opened without the training beside the state of a checkpoint: the average."""
        self.average.model.save_pretrained(folder / self.average_folder)

    def save_grid(self, network: nn.Module, path: Path) -> None:
        """Write samples of the trained network or its average, the same latents in every picture."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """No further step is to be made."""
        return self.stopped or self.step >= self.config.max_train_steps

    @property
    def logging_due(self) -> bool:
        """Losses of this step go to the log."""
        step = self.step
        return step == 1 or step % self.config.logging_steps == 0 or step == self.config.max_train_steps

    @property
    def validation_due(self) -> bool:
        """Sample grid and figures are made after this step."""
        return self.step % self.config.validation_steps == 0 or self.step == self.config.max_train_steps

    def register(self, *others: Any, **optimizers: Any) -> None:
        """Let checkpoints hold the run: learning rates of prepared optimizers by the config, logged under the names
        given, the average, and others.
        """
        self.schedulers = {
            name: make_scheduler(optimizer.optimizer, self.config) for name, optimizer in optimizers.items()
        }
        averages = [] if self.average is None else [self.average.model]
        self.accelerator.register_for_checkpointing(*self.schedulers.values(), *averages, self, *others)

    def optimize(self, network: nn.Module, optimizer: Any) -> None:
        """Step down the network's gradient, scaled down to ``max_grad_norm`` if there is one, and drop it."""
        if self.config.max_grad_norm and self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(network.parameters(), self.config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        """From the checkpoint."""
        self.step = state["step"]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """With a progress bar; SIGTERM and SIGINT to any process end the run after the current step, with a checkpoint.

        Raises:
            SystemExit: The run was stopped before its last step, so that a script does not take its model for the
                final one.
        """
        handlers = {each: signal.signal(each, self.request_stop) for each in (signal.SIGTERM, signal.SIGINT)}
        self.clock = (time.monotonic(), self.step)
        self.bar = tqdm(
            total=self.config.max_train_steps,
            initial=self.step,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        try:
            yield
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
            self.bar.close()
        self.accelerator.wait_for_everyone()
        if self.stopped and self.step < self.config.max_train_steps:
            raise SystemExit(f"stopped at step {self.step}; continue with resume_from_checkpoint 'latest'")

    def request_stop(self, *_: object) -> None:
        """Signal handler."""
        self.signalled = True

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """The config's mixed precision, or float32."""
        enabled = enabled and self.config.mixed_precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled)

    def batches(self, loader: Any, accumulation: int = 1, sampler: Any = None) -> Iterator[tuple[int, Any]]:
        """(number, micro-batch) from this step to the end of the run, as an uninterrupted run has them.

        Args:
            loader: Prepared; micro-batches of an epoch that fill no step are left out.
            accumulation: Micro-batches per step.
            sampler: With ``set_epoch``, where the loader does not reach it.

        Raises:
            ValueError: An epoch has no whole step.
        """
        per_epoch = len(loader) // accumulation * accumulation
        if not per_epoch:
            raise ValueError(
                f"training: there are fewer images than one step takes ({self.images_per_step}); "
                "use a smaller train_batch_size or more images."
            )
        while not self.finished:
            epoch, start = divmod(self.step * accumulation, per_epoch)
            loader.set_epoch(epoch)
            if sampler is not None:
                sampler.set_epoch(epoch)
            part = self.accelerator.skip_first_batches(loader, start) if start else loader
            for position, batch in enumerate(part, start=start):
                if position >= per_epoch:
                    break
                yield epoch * per_epoch + position, batch
                if self.finished:
                    return

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

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Count the step, average, and make grids and figures where they are due; then :meth:`advance`."""
        self.step += 1
        networks = {"trained": self.trained}
        if self.average is not None:
            self.average.update_(self.trained, self.step)
            networks["average"] = self.average.model
        if self.validation_due and self.accelerator.is_main_process:
            figures = {}
            for name in (each for each in self.config.validation_weights if each in networks):
                path = self.output / "samples" / f"step-{self.step:07d}-{name}.png"
                path.parent.mkdir(exist_ok=True)
                with evaluating(networks[name]), torch.no_grad():
                    self.save_grid(networks[name], path)
                    found = self.validate(networks[name]) if self.validate is not None else {}
                figures |= {f"{name}_{key}": value for key, value in found.items()}
            if figures:
                self.write_log(figures, "figures.jsonl")
                self.accelerator.log(figures, step=self.step)
        self.advance(losses)

    def advance(self, losses: Mapping[str, Tensor]) -> None:
        """Show and log a step, agree with the other processes whether to stop, and write a checkpoint where one is due.

        Args:
            losses: Of this step; those with a "/" in their names go to the log alone.
        """
        then, start = self.clock
        rate = (self.step - start) * self.images_per_step / max(time.monotonic() - then, 1e-9)
        values = {name: float(value) for name, value in losses.items()}
        shown = {name: f"{value:.3f}" for name, value in values.items() if "/" not in name}
        self.bar.set_postfix(shown | {"images/s": f"{rate:.0f}"}, refresh=False)
        self.bar.update()
        rates = {name: scheduler.get_last_lr()[0] for name, scheduler in self.schedulers.items()}
        for scheduler in self.schedulers.values():
            scheduler.step()
        if self.logging_due:
            values |= rates | {"images_per_second": rate}
            self.accelerator.log(values, step=self.step)
            self.write_log(values)
        signalled = torch.tensor(float(self.signalled), device=self.accelerator.device)
        self.stopped = bool(self.accelerator.reduce(signalled, "sum"))
        if self.finished or self.step % self.config.checkpointing_steps == 0:
            self.save_checkpoint()

    def write_log(self, values: Mapping[str, float], name: str = "log.jsonl") -> None:
        """One line of a log, by the main process."""
        if self.accelerator.is_main_process:
            with open(self.output / name, "a") as log:
                log.write(json.dumps({"step": self.step, "images": self.step * self.images_per_step, **values}) + "\n")

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
            self.save_models(partial)
            self._discard(final)
            partial.rename(final)
            limit = self.config.checkpoints_total_limit
            for old in self.checkpoints()[:-limit] if limit else ():
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
        """Load the checkpoint folder of the config, or the latest one; what the run wrote after it goes. Warn of an
        average that hardly leaves its start.

        Raises:
            FileExistsError: The output folder holds a run that is not continued.
            FileNotFoundError: No such folder.
            ValueError: The checkpoint belongs to another structure.
        """
        wanted = self.config.resume_from_checkpoint
        path = Path(wanted) if wanted and wanted != "latest" else None
        if path is not None and not path.is_dir():
            raise FileNotFoundError(
                f"resume_from_checkpoint: no folder {path}; use 'latest' or a checkpoint-STEP folder."
            )
        if not wanted or (path is not None and path.resolve().parent != self.output.resolve()):
            check_unused(self.output)
        if wanted == "latest":
            path = self.checkpoints()[-1] if self.checkpoints() else None
            if path is None:
                logger.warning("no checkpoint in %s; starting from step 0", self.output)
        if path is not None:
            try:
                self.accelerator.load_state(str(path))
            except RuntimeError as error:
                raise ValueError(f"resume_from_checkpoint: {path} belongs to another network: {error}") from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._forget_later_steps()
            if self.average is not None:
                self.average.warn_of_start(self.config.max_train_steps)
        self.accelerator.wait_for_everyone()

    def _forget_later_steps(self) -> None:
        """Delete checkpoints and lines of logs beyond the current step, and a line that was not written to its end."""
        for path in self.checkpoints():
            if int(path.name.split("-")[1]) > self.step:
                self._discard(path)
        for log in self.output.glob("*.jsonl"):
            lines = log.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            if kept != lines:
                partial = log.with_suffix(".partial")
                partial.write_text("".join(kept))
                partial.replace(log)


def check_unused(output: Path) -> None:
    """Refuse a folder that holds checkpoints or logs of a run.

    Raises:
        FileExistsError: It does.
    """
    found = sorted(path.name for pattern in ("checkpoint-*", "*.jsonl") for path in output.glob(pattern))
    if found:
        raise FileExistsError(
            f"output_dir: {output} holds a run already ({', '.join(found[:3])}); continue it with "
            "resume_from_checkpoint 'latest', or choose another folder."
        )
