# SPDX-License-Identifier: Apache-2.0
"""Options of fine-tuning by distillation, and the values of published runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from .average import RAMPUP
from .run_config import RunConfig


DISTILLATION_PRESETS: dict[str, dict[str, Any]] = {  # values of the published runs; durations in images / batch
    "svs-stylegan2-base": {
        "train_batch_size": 32,
        "relation_batch": 4,
        "learning_rate": 2e-3,
        "discr_learning_rate": 2e-3,
        "r1_gamma": 10.0,
        "ema_images": 10_000.0,
        "ema_rampup": 0.0,
        "max_train_steps": 468_750,
    },
    "svs-stylegan2-small": {
        "train_batch_size": 64,
        "relation_batch": 8,
        "learning_rate": 2.5e-3,
        "discr_learning_rate": 2.5e-3,
        "r1_gamma": 1.0,
        "ema_images": 20_000.0,
        "ema_rampup": 0.0,
        "max_train_steps": 390_625,
    },
    "svs-stylegan3-t": {
        "train_batch_size": 16,
        "relation_batch": 4,
        "learning_rate": 2.5e-3,
        "discr_learning_rate": 2e-3,
        "r1_gamma": 10.0,
        "path_every": 0,
        "mixing_probability": 0.0,
        "ema_images": 5_000.0,
        "ema_rampup": 0.05,
        "random_flip": False,
        "ada_target": 0.6,
        "max_train_steps": 625_000,
    },
}
_BASE = DISTILLATION_PRESETS["svs-stylegan2-base"]
_DCP = {"train_batch_size": 16, "ema_images": 5_000.0, "max_train_steps": 450_001}
DISTILLATION_PRESETS |= {"dcp-stylegan2": _BASE | _DCP, "stylegan2": _BASE | {"ema_rampup": RAMPUP}}


@dataclasses.dataclass(frozen=True)
class DistillationConfig(RunConfig):
    """Options of :func:`.train_distilled`; defaults are those of "svs-stylegan2-base", but the average ramps up."""

    max_train_steps: int = 468_750
    gradient_accumulation_steps: int = 1  # micro-batches per optimizer step
    learning_rate: float = 2e-3
    discr_learning_rate: float = 2e-3
    adversarial_weight: float = 1.0
    rgb_weight: float = 3.0
    perceptual_weight: float = 3.0  # needs a perceptual distance
    relation_weight: float = 30.0  # of L_LD; not in the paper's list
    relation_batch: int | None = 4  # samples that are compared with each other
    mixing_probability: float = 0.9  # of styles from two latents
    r1_gamma: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4  # 0 turns path length off
    path_decay: float = 0.01
    ema_images: float = 10_000.0  # half-life of the averaged generator, in images
    ema_rampup: float = RAMPUP  # half-life is at most this share of the images seen; 0: no ramp-up
    random_flip: bool = True  # of the real images
    ada_target: float | None = None  # adaptive discriminator augmentation; None: none
    spectral_norm: bool = False  # ablation: weights of the student divided by their norms during training
    svs_every: int = 0  # ablation: steps between singular value scalings in the first half of the training; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_accumulation_steps < 1:
            raise ValueError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; allowed are 1 and more."
            )
        if self.relation_batch is not None and self.train_batch_size % self.relation_batch:
            raise ValueError(
                f"train_batch_size is {self.train_batch_size}; allowed are multiples of relation_batch "
                f"{self.relation_batch}."
            )
