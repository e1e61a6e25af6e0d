# SPDX-License-Identifier: Apache-2.0
"""Random numbers of a distillation step: drawn for the whole step from (seed, step), so that every process and
micro-batch takes its part.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..core.seeding import derive_seed, sample_generators
from .augment import AdaptiveAugment
from .distillation import random_shifts
from .distillation_config import DistillationConfig


_SHIFT_STRENGTH = 5.0  # as published


class StepDraws:
    """The part of one process.

    Args:
        config: Of the run: its seed, batches and mixing of styles.
        teacher: Generator whose latents, labels and styles are drawn.
        accelerator: Of this process.
        directions: (D, w_dim) of latent shifts, on its device.
    """

    def __init__(self, config: DistillationConfig, teacher: Any, accelerator: Accelerator, directions: Tensor):
        self.config, self.teacher, self.accelerator, self.directions = config, teacher, accelerator, directions
        self.seed, self.batch = config.seed, config.train_batch_size
        self.parts = config.gradient_accumulation_steps * accelerator.num_processes  # of a step

    def part(self, micro: int) -> int:
        """Number of a micro-batch of this process in the step."""
        return micro * self.accelerator.num_processes + self.accelerator.process_index

    def __call__(self, step: int, phase: int, micro: int, batch: int | None = None) -> dict[str, Any]:
        """Latents, labels, shifts and noise generators of a phase and micro-batch, of ``batch`` images or all."""
        batch = self.batch if batch is None else batch
        total, start = batch * self.parts, batch * self.part(micro)
        classes, device = self.teacher.config.num_classes, self.accelerator.device
        random = torch.Generator().manual_seed(derive_seed(self.seed, step, phase))
        whole = {
            "z": torch.randn(total, self.teacher.config.z_dim, generator=random),
            "z2": torch.randn(total, self.teacher.config.z_dim, generator=random),
            "mixed": torch.rand(total, generator=random) < self.config.mixing_probability,
            "crossover": torch.randint(1, max(self.teacher.num_ws, 2), (total,), generator=random),
            "choices": torch.randint(len(self.directions), (total,), generator=random),
            "normals": torch.randn(total, generator=random),
            "labels": torch.randint(max(classes, 1), (total,), generator=random),
        }
        found: dict[str, Any] = {name: value[start : start + batch].to(device) for name, value in whole.items()}
        if not classes:
            found["labels"] = None
        found["shift"] = random_shifts(self.directions, found["normals"], found["choices"], _SHIFT_STRENGTH)
        base = derive_seed(self.seed, step, phase, 1)
        for place, name in enumerate(("noise", "noise2", "teacher_noise", "teacher_noise2")):
            found[name] = sample_generators(base, batch, start + place * total, device)
        return found

    def flips(self, step: int, micro: int) -> Tensor:
        """Which images of a micro-batch are mirrored: bool (B,)."""
        random = torch.Generator().manual_seed(derive_seed(self.seed, step, 3))
        start = self.batch * self.part(micro)
        return (torch.rand(self.batch * self.parts, generator=random) < 0.5)[start : start + self.batch]

    def augmented(self, augment: AdaptiveAugment | None, images: Tensor, step: int, use: int, micro: int) -> Tensor:
        """Images of a micro-batch as the discriminator sees them; ``use`` numbers the calls of a step."""
        if augment is None:
            return images
        random = torch.Generator().manual_seed(derive_seed(self.seed, step, 10 + use))
        return augment(images, random, self.batch * self.part(micro), self.batch * self.parts)
