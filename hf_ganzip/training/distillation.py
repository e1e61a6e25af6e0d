# SPDX-License-Identifier: Apache-2.0
"""Losses that tie a compressed StyleGAN to the one it came from, and the path length regularizer; pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        rows = torch.cat([generator.get_submodule(name).affine.weight.double() for name in group])
        rows = nn.functional.normalize(rows, dim=1)
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
def sanitize_gradients_(parameters) -> None:
    """NaN becomes 0, infinities 1e5 with their sign, as in the StyleGAN scripts."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
