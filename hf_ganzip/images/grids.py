# SPDX-License-Identifier: Apache-2.0
"""Grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


_READABLE = 96  # pixels of an image in a grid


def class_rows(images: Tensor, labels: Tensor, columns: int) -> tuple[Tensor, list[int | None]]:
    """Images (N, C, H, W) by class, each on rows of its own, filled up with white; and the class where one starts."""
    rows, starts = [], []
    for label in labels.unique().tolist():
        for chunk in images[labels == label].split(columns):
            starts.append(None if label in starts else label)
            rows += [chunk, torch.full_like(images[:1], 255).expand(columns - len(chunk), -1, -1, -1)]
    return torch.cat(rows), starts


def image_grid(
    images: Tensor, columns: int, *, padding: int = 1, scale: int | None = None, row_labels: Sequence[str] = ()
) -> Image.Image:
    """Arrange uint8 images (N, C, H, W), C in {1, 3}, row by row; ``scale`` enlarges pixels, None: to about 96."""
    count, channels, height, width = images.shape
    scale = scale or max(1, round(_READABLE / width))
    rows = -(-count // columns)
    canvas = torch.full((channels, rows * (height + padding) + padding, columns * (width + padding) + padding), 255)
    canvas = canvas.to(torch.uint8)
    for i, image in enumerate(images.cpu()):
        top = padding + (i // columns) * (height + padding)
        left = padding + (i % columns) * (width + padding)
        canvas[:, top : top + height, left : left + width] = image
    array = canvas[0].numpy() if channels == 1 else canvas.permute(1, 2, 0).numpy()
    grid = Image.fromarray(array)
    grid = grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
    return _with_row_labels(grid, rows, row_labels) if row_labels else grid


def _with_row_labels(grid: Image.Image, rows: int, labels: Sequence[str]) -> Image.Image:
    """The grid with one text per row at its left."""
    font = ImageFont.load_default(size=14)
    margin = max(int(font.getlength(label)) for label in labels) + 12
    labelled = Image.new(grid.mode, (grid.width + margin, grid.height), "white")
    labelled.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(labelled)
    for row, label in enumerate(labels):
        draw.text((6, (row + 0.5) * grid.height / rows), label, fill="black", font=font, anchor="lm")
    return labelled


def save_image_grid(images: Tensor, path: str | Path, columns: int = 10, *, row_labels: Sequence[str] = ()) -> None:
    """Write :func:`image_grid` of ``images`` as PNG."""
    image_grid(images, columns, row_labels=row_labels).save(path)
