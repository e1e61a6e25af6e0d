# SPDX-License-Identifier: Apache-2.0
"""Losses that tie a compressed StyleGAN to the one it came from, and the path length regularizer: pure functions; and
the random numbers of a step, drawn for the whole step from (seed, step), so that every process and micro-batch takes
its part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core.seeding import derive_seed, sample_generators
from .augment import AdaptiveAugment
from .distillation_config import DistillationConfig


def rgb_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of images (B, C, H, W), outside the mask (B, 1, H, W) zero.

    Source:
        Content-aware GAN compression, equation 4; Singular Value Scaling, equation 7.
    """
    difference = (teacher - student).abs()
    return (difference if mask is None else difference * mask).mean()


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, relation_batch: int | None = None
) -> Tensor:
    """Relation of features to those of shifted styles, compared between student and teacher (L_LD).

    S_ij is the cosine of student feature i and shifted student feature j, T_ij of the teacher's; the loss is the mean
    over rows of KL(softmax T_i || softmax S_i), summed over layers.

    Args:
        student: Per layer (2 B, C, H, W): B features, then those of the B shifted styles; any dtype, compared in
            float32.
        teacher: The same with other widths.
        relation_batch: Samples that are compared with each other; None: all B. B must be a multiple.

    Returns:
        Scalar >= 0; gradients reach the student only.

    Raises:
        ValueError: B is no multiple of ``relation_batch``.

    Source:
        StyleKD, equations 6-8, in the form of the published code.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for own, other in zip(student, teacher, strict=True):
        size = len(own) // 2
        group = relation_batch or size
        if size % group:
            raise ValueError(f"relation_batch is {group}; the batch {size} is no multiple of it.")
        similarity, target = _cosines(own, group), _cosines(other.detach(), group)
        divergence = target.softmax(2) * (target.log_softmax(2) - similarity.log_softmax(2))
        total = total + divergence.sum(dim=2).mean()
    return total


def _cosines(features: Tensor, group: int) -> Tensor:
    """(2 B, ...) -> (B / group, group, group)."""
    rows = nn.functional.normalize(features.flatten(1).float(), dim=1)
    plain, shifted = rows.reshape(2, -1, group, rows.shape[1])
    return plain @ shifted.transpose(1, 2)


@torch.no_grad()
def latent_directions(generator: nn.Module, groups: Sequence[Sequence[str]], per_group: int = 5) -> Tensor:
    """Directions in style space that change the styles of some layers most.

    Args:
        generator: StyleGAN2 or StyleGAN3.
        groups: Names of layers with an ``affine``; the rows of a group's affine weights, each of length one, are taken
            together.
        per_group: Leading eigenvectors of R^T R of each group.

    Returns:
        (len(groups) * per_group, w_dim), rows of length one, by group and descending eigenvalue.

    Source:
        Closed-form factorization of latent semantics (Shen and Zhou), as StyleKD uses it.
    """
    found = []
    for group in groups:
        layers: list[Any] = [generator.get_submodule(name) for name in group]
        rows = nn.functional.normalize(torch.cat([layer.affine.weight.double() for layer in layers]), dim=1)
        _, vectors = torch.linalg.eigh(rows.T @ rows)
        found.append(vectors.flip(1).T[:per_group])
    return torch.cat(found).float()


def random_shifts(directions: Tensor, normals: Tensor, choices: Tensor, strength: float = 5.0) -> Tensor:
    """(B, w_dim) shifts: direction ``choices[i]`` times ``strength * normals[i]``."""
    return directions[choices] * (strength * normals)[:, None]


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """(B,) lengths |J^T y| of the step in images for a step in styles.

    Args:
        images: (B, C, H, W) with a graph to ``ws``.
        ws: (B, L, w_dim).
        noise: Standard normal, of the images' shape; scaled by 1 / sqrt(H W) here.

    Source:
        StyleGAN2, section 3.2 and appendix B; mean over layers as in the published code.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * scaled).sum(), ws, create_graph=True)
    return gradient.float().square().sum(dim=2).mean(dim=1).sqrt()


@torch.no_grad()
def sanitize_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """NaN becomes 0, infinities 1e5 with their sign, as in the StyleGAN scripts."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)


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
        found["shift"] = random_shifts(self.directions, found["normals"], found["choices"])
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
