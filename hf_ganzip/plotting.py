# SPDX-License-Identifier: Apache-2.0
"""Pictures from images and reports."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def image_grid(images: Tensor, columns: int, *, padding: int = 1, scale: int = 2) -> Image.Image:
    """Arrange uint8 images (N, C, H, W), C in {1, 3}, row by row; ``scale`` enlarges each pixel."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = torch.full((channels, rows * (height + padding) + padding, columns * (width + padding) + padding), 255)
    canvas = canvas.to(torch.uint8)
    for i, image in enumerate(images.cpu()):
        top = padding + (i // columns) * (height + padding)
        left = padding + (i % columns) * (width + padding)
        canvas[:, top : top + height, left : left + width] = image
    array = canvas[0].numpy() if channels == 1 else canvas.permute(1, 2, 0).numpy()
    grid = Image.fromarray(array)
    return grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)


def save_image_grid(images: Tensor, path: str | Path, columns: int = 10) -> None:
    """Write :func:`image_grid` of ``images`` as PNG."""
    image_grid(images, columns).save(path)
