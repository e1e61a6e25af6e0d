# SPDX-License-Identifier: Apache-2.0
"""Pictures from images and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .quantization.sensitivity import SensitivityReport


def image_grid(
    images: Tensor, columns: int, *, padding: int = 1, scale: int = 2, row_labels: Sequence[str] = ()
) -> Image.Image:
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


def new_figure(width: float, height: float):
    """An empty matplotlib figure (inches) that belongs to no window.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'hf_ganzip[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_sensitivity_plot(report: SensitivityReport, path: str | Path) -> None:
    """Plot the error of the output for every layer that is quantized alone, one line per number of bits.

    Args:
        report: From :func:`~hf_ganzip.sensitivity`.
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    names = [layer.name for layer in report.layers]
    figure = new_figure(9, 1.5 + 0.22 * len(names))
    axes = figure.subplots()
    for bits in report.layers[0].errors:
        axes.plot([layer.errors[bits] for layer in report.layers], names, "o-", label=f"{bits} bits")
    axes.set(
        xscale="log", xlabel="error of the output, relative to its mean square", title="One layer quantized at a time"
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    axes.legend()
    figure.savefig(path, dpi=110)


def save_precision_recall_plot(rows: list[dict], path: str | Path) -> None:
    """Plot precision and recall against bits, one panel per pair of metrics, one line per method.

    Args:
        rows: Dicts with ``method``, ``bits`` (32 = full precision, drawn as a dashed line) and the six values
            ``{lsh,lsh_knn,knn}_{precision,recall}``.
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(11, 3.6)
    full = next(row for row in rows if row["bits"] == 32)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["bits"] != 32))
    for axes, (key, title) in zip(
        figure.subplots(1, 3, sharey=True), [("lsh", "LSH"), ("lsh_knn", "LSH+KNN"), ("knn", "KNN")]
    ):
        for kind, colour in (("precision", "tab:blue"), ("recall", "tab:orange")):
            axes.axhline(full[f"{key}_{kind}"], color=colour, linestyle="--", linewidth=1)
            for method, marker in zip(methods, "os^Dv"):
                points = sorted((row["bits"], row[f"{key}_{kind}"]) for row in rows if row["method"] == method)
                axes.plot(*zip(*points), color=colour, marker=marker, label=f"{kind}, {method}")
        axes.set(title=title, xlabel="bits", ylim=(-0.02, 1.02))
        axes.invert_xaxis()
    axes.legend(fontsize=8)
    figure.suptitle("Precision and recall against bits (dashed: full precision)")
    figure.savefig(path, dpi=110)
