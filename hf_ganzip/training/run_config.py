# SPDX-License-Identifier: Apache-2.0
"""Options that every training loop has, and the learning rates over a training."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


SECOND_HALF = "linear_second_half"  # constant, then to zero at max_train_steps: U-GAT-IT
LR_SCHEDULERS = (*(kind.value for kind in SchedulerType if kind.value != "piecewise_constant"), SECOND_HALF)
WEIGHTS = ("average", "trained")
_WITHOUT_WARMUP = ("constant", SECOND_HALF)
_COUNTS = ("max_train_steps", "train_batch_size", "logging_steps", "checkpointing_steps", "validation_steps")
_OPTIONAL_COUNTS = ("num_train_epochs", "checkpoints_total_limit")
_FROM_ZERO = ("lr_warmup_steps", "max_grad_norm", "dataloader_num_workers")

Config = TypeVar("Config", bound="RunConfig")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Options that every training loop has; durations in images count those of all processes."""

    output_dir: str
    max_train_steps: int = 10_000  # optimizer steps of each network
    num_train_epochs: int | None = None  # takes the place of max_train_steps; None: that counts
    train_batch_size: int = 32  # images per process and micro-step
    lr_scheduler: str = "constant"  # one of LR_SCHEDULERS
    lr_warmup_steps: int = 0
    max_grad_norm: float = 0.0  # gradients of a network are scaled down to it; 0: left as they are
    gradient_checkpointing: bool = False  # less memory, more time; of models that can
    dataloader_num_workers: int = 0
    mixed_precision: str = "no"  # "no" or "bf16"; penalties and losses are always float32
    seed: int = 0
    logging_steps: int = 10
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int | None = None  # the oldest go; None: all stay
    validation_steps: int = 1000  # sample grids, and figures where there is a validator; also at the end
    validation_weights: tuple[str, ...] = WEIGHTS  # of grids and figures, as far as a loop has them
    resume_from_checkpoint: str | None = None  # folder or "latest"

    def __post_init__(self) -> None:
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}; allowed are 'no' and 'bf16'.")
        optional = [name for name in _OPTIONAL_COUNTS if getattr(self, name) is not None]
        for least, names in ((1, (*_COUNTS, *optional)), (0, _FROM_ZERO)):
            wrong = [f"{name} is {getattr(self, name)}" for name in names if getattr(self, name) < least]
            if wrong:
                raise ValueError(f"{', '.join(wrong)}; allowed are {least} and more.")
        if self.lr_scheduler not in LR_SCHEDULERS:
            raise ValueError(f"lr_scheduler is {self.lr_scheduler!r}; allowed are {', '.join(LR_SCHEDULERS)}.")
        if self.lr_warmup_steps and self.lr_scheduler in _WITHOUT_WARMUP:
            raise ValueError(
                f"lr_warmup_steps is {self.lr_warmup_steps}; allowed is 0 with lr_scheduler {self.lr_scheduler!r}, "
                "which has no warm-up ('constant_with_warmup' has)."
            )
        unknown = [name for name in self.validation_weights if name not in WEIGHTS]
        if unknown or not self.validation_weights:
            raise ValueError(f"validation_weights is {self.validation_weights}; allowed are {', '.join(WEIGHTS)}.")

    def in_steps(self: Config, steps_per_epoch: int) -> Config:
        """The same with ``max_train_steps`` in place of ``num_train_epochs``."""
        if self.num_train_epochs is None:
            return self
        steps = max(self.num_train_epochs * steps_per_epoch, 1)
        return dataclasses.replace(self, max_train_steps=steps, num_train_epochs=None)


def make_scheduler(optimizer: Optimizer, config: RunConfig) -> LambdaLR:
    """Learning rates of an optimizer by the config, to be stepped once after each of the run's steps."""
    steps = config.max_train_steps
    if config.lr_scheduler == SECOND_HALF:
        return LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / steps))
    return get_scheduler(
        config.lr_scheduler, optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=steps
    )


def enable_gradient_checkpointing_(config: RunConfig, *networks: nn.Module) -> None:
    """Recompute activations in the backward pass, where the config asks for it.

    Raises:
        ValueError: A network cannot.
    """
    if not config.gradient_checkpointing:
        return
    cannot = {type(each).__name__ for each in networks if not getattr(each, "_supports_gradient_checkpointing", False)}
    if cannot:
        raise ValueError(
            f"gradient_checkpointing: {', '.join(sorted(cannot))} cannot recompute activations, UNets of diffusers "
            "can; leave it out, or save memory by a smaller train_batch_size and gradient accumulation."
        )
    for each in networks:
        each.enable_gradient_checkpointing()
