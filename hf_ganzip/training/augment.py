# SPDX-License-Identifier: Apache-2.0
"""Differentiable augmentations of what a discriminator sees: adaptive (ADA), and DiffAugment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.registry import lookup


_STANDARD_DEVIATIONS = {
    "scale": 0.2,
    "aspect": 0.2,
    "translation": 0.125,
    "brightness": 0.2,
    "contrast": 0.5,
    "saturation": 1.0,
}
_LUMA = (1 / math.sqrt(3),) * 3  # the grey axis of RGB


def twice_differentiable() -> bool:
    """Whether :func:`augment` passes gradients of gradients, which R1 takes; torch 2.12 and newer do."""
    image = torch.zeros(1, 1, 2, 2, requires_grad=True)
    found = nn.functional.grid_sample(image, torch.zeros(1, 1, 1, 2), align_corners=False).square().sum()
    (gradient,) = torch.autograd.grad(found, image, create_graph=True)
    try:
        torch.autograd.grad(gradient.sum(), image)
    except RuntimeError:
        return False
    return True


def augment(
    images: Tensor, probability: float, generator: torch.Generator, start: int = 0, total: int | None = None
) -> Tensor:
    """Augment a batch; every transformation is applied to each image with the given probability.

    Mirror, quarter turns, whole-pixel shifts, isotropic scale, rotation, anisotropic scale, rotation and fractional
    shift, composed to one bilinear resampling with reflected borders; then brightness, contrast, and for RGB luma
    flip, hue and saturation.

    Args:
        images: (B, C, H, W) about [-1, 1]; gradients pass.
        probability: 0 to 1; 0 returns the images.
        generator: On the CPU; numbers are drawn for ``total`` images, of which these are ``start`` and the following.
        start: Place of the first image in the step.
        total: Images of the step; None: B.

    Returns:
        Tensor like ``images``.

    Source:
        Karras et al., "Training Generative Adversarial Networks with Limited Data", appendix B, pixel blitting,
        geometric and colour transformations; bilinear instead of wavelet filtering.
    """
    if probability <= 0:
        return images
    batch, channels, height, width = images.shape
    draws = _Draws(generator, probability, slice(start, start + batch), total or batch, images.device)
    matrix = _geometry(draws, height, width)
    grid = nn.functional.affine_grid(
        torch.linalg.inv(matrix)[:, :2], [batch, channels, height, width], align_corners=False
    )
    found = nn.functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False
    )
    brightness, contrast = draws.normal("brightness"), draws.factor("contrast")
    found = (found + brightness[:, None, None, None]) * contrast[:, None, None, None]
    if channels != 3:
        return found
    return torch.einsum("bij,bjhw->bihw", _colour(draws).to(found.dtype), found)


@dataclass(frozen=True)
class _Draws:
    """Random numbers (B,) of the images ``part`` of a step of ``total``, in the order of the calls.

    What is not chosen, which a transformation is with ``probability``, is 0, or as a factor 1.
    """

    generator: torch.Generator
    probability: float
    part: slice
    total: int
    device: torch.device

    def _of_part(self, values: Tensor) -> Tensor:
        return values[self.part].to(self.device)

    def chosen(self, share: float = 1.0) -> Tensor:
        return self._of_part(torch.rand(self.total, generator=self.generator) < self.probability * share)

    def uniform(self) -> Tensor:
        return self._of_part(torch.rand(self.total, generator=self.generator))

    def deviation(self, name: str) -> Tensor:
        """N(0, s^2) for all, s the standard deviation of ``name``."""
        return self._of_part(torch.randn(self.total, generator=self.generator)) * _STANDARD_DEVIATIONS[name]

    def normal(self, name: str) -> Tensor:
        return torch.where(self.chosen(), self.deviation(name), 0.0)

    def factor(self, name: str) -> Tensor:
        return torch.where(self.chosen(), torch.exp2(self.deviation(name)), 1.0)

    def flip(self) -> Tensor:
        """Booleans, true for half of the chosen."""
        return self.chosen() & (self.uniform() < 0.5)

    def angle(self, share: float = 1.0) -> Tensor:
        return torch.where(self.chosen(share), (self.uniform() * 2 - 1) * math.pi, 0.0)


def _geometry(draws: _Draws, height: int, width: int) -> Tensor:
    """Matrices (B, 3, 3) in coordinates of [-1, 1]."""
    batch = draws.part.stop - draws.part.start
    one, zero = torch.ones(batch, device=draws.device), torch.zeros(batch, device=draws.device)
    matrix = torch.eye(3, device=draws.device).expand(batch, 3, 3)

    def compose(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> None:
        nonlocal matrix
        rows = torch.stack([a, b, c, d, e, f, zero, zero, one], dim=1).reshape(batch, 3, 3)
        matrix = rows @ matrix

    def rotate(angle: Tensor) -> None:
        compose(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)

    def shift(x: Tensor, y: Tensor) -> None:
        compose(one, zero, x, zero, one, y)

    compose(torch.where(draws.flip(), -one, one), zero, zero, zero, one, zero)  # mirror
    rotate(torch.where(draws.chosen(), (draws.uniform() * 4).floor() * (math.pi / 2), zero))
    shifted = draws.chosen()
    pixels = [((draws.uniform() * 2 - 1) * 0.125 * side).round() * 2 / side for side in (width, height)]
    shift(*(torch.where(shifted, each, zero) for each in pixels))
    scale = draws.factor("scale")
    compose(scale, zero, zero, zero, scale, zero)
    turn = (1 - math.sqrt(1 - draws.probability)) / draws.probability  # of two rotations: one with the probability
    rotate(draws.angle(turn))
    aspect = draws.factor("aspect")
    compose(aspect, zero, zero, zero, 1 / aspect, zero)
    rotate(draws.angle(turn))
    shifted = draws.chosen()
    shift(*(torch.where(shifted, draws.deviation("translation") * 2, zero) for _ in range(2)))
    return matrix


def _colour(draws: _Draws) -> Tensor:
    """Matrices (B, 3, 3) of RGB: luma flip, hue and saturation."""
    axis, identity = torch.tensor(_LUMA, device=draws.device), torch.eye(3, device=draws.device)
    grey = torch.outer(axis, axis)
    flipped = identity - 2 * grey * draws.flip().float()[:, None, None]
    angle = draws.angle()[:, None, None]
    cross = torch.linalg.cross(identity, axis.expand(3, 3))
    rotation = angle.cos() * identity + angle.sin() * cross + (1 - angle.cos()) * grey
    saturation = draws.factor("saturation")[:, None, None]
    return (grey + (identity - grey) * saturation) @ rotation @ flipped


class AdaptiveAugment:
    """:func:`augment` whose probability rises while the discriminator is too sure of real images.

    Args:
        target: Mean sign of D(real) that is aimed at.
        images: Images in which the probability can move from 0 to 1.
        probability: At the start.

    Source:
        As :func:`augment`, section 3.2 (r_t, 500,000 images).
    """

    def __init__(self, target: float = 0.6, images: int = 500_000, probability: float = 0.0):
        self.target, self.images, self.probability = target, images, probability

    def __call__(self, images: Tensor, generator: torch.Generator, start: int = 0, total: int | None = None) -> Tensor:
        return augment(images, self.probability, generator, start, total)

    def update(self, sign: float, seen: int) -> None:
        """Move the probability after ``seen`` images with this mean sign of D(real)."""
        step = math.copysign(seen / self.images, sign - self.target) if sign != self.target else 0.0
        self.probability = min(1.0, max(0.0, self.probability + step))

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return {"probability": self.probability}

    def load_state_dict(self, state: dict) -> None:
        """From the checkpoint."""
        self.probability = state["probability"]


# -- DiffAugment ------------------------------------------------------------------------------------------------------


def _color(images: Tensor, generator: torch.Generator) -> Tensor:
    def uniform() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device).to(images)

    images = images + (uniform() - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * (uniform() * 2) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (uniform() + 0.5) + mean


def _corners(images: Tensor, room: tuple[int, int], generator: torch.Generator) -> list[Tensor]:
    """Two integers per image, 0 to ``room`` inclusive."""
    shape = (len(images),)
    return [torch.randint(r + 1, shape, generator=generator, device=generator.device).to(images.device) for r in room]


def _translation(images: Tensor, generator: torch.Generator, share: float = 0.125) -> Tensor:
    height, width = images.shape[2:]
    reach = (int(height * share + 0.5), int(width * share + 0.5))
    down, right = _corners(images, (2 * reach[0], 2 * reach[1]), generator)
    padded = nn.functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    rows = torch.arange(height, device=images.device)[None, :] + down[:, None]
    columns = torch.arange(width, device=images.device)[None, :] + right[:, None]
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.movedim(1, 3)[index, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _cutout(images: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    height, width = images.shape[2:]
    size = (int(height * share + 0.5), int(width * share + 0.5))
    top, left = _corners(images, (height - size[0] % 2, width - size[1] % 2), generator)
    rows = torch.arange(height, device=images.device)[None, :] - top[:, None] + size[0] // 2
    columns = torch.arange(width, device=images.device)[None, :] - left[:, None] + size[1] // 2
    inside = ((rows >= 0) & (rows < size[0]))[:, :, None] & ((columns >= 0) & (columns < size[1]))[:, None, :]
    return images * ~inside[:, None]


DIFF_AUGMENTATIONS = {"color": _color, "translation": _translation, "cutout": _cutout}


def diff_augment(images: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Augment a batch; gradients pass.

    Args:
        images: (B, C, H, W) about [-1, 1].
        policy: Names of ``DIFF_AUGMENTATIONS`` with commas: "color,translation,cutout"; "" returns the images.
        generator: Source of randomness.

    Raises:
        ValueError: An unknown name.

    Source:
        Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", section 3.3: brightness within 0.5,
        saturation within 2, contrast within 0.5, shifts within 1/8, squares of half the side.
    """
    for name in filter(None, policy.split(",")):
        images = lookup(DIFF_AUGMENTATIONS, name, "augmentation")(images, generator)
    return images
