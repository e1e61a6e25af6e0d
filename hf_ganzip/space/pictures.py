# SPDX-License-Identifier: Apache-2.0
"""Figures of the app: precision and recall against k and H, and the metrics drawn in two dimensions."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluation.plotting import new_figure
from ..metrics.hyperplanes import hash_keys, hyperplanes
from .results import PAIRS


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"lsh": "#0072b2", "lsh_knn": "#009e73", "knn": "#d55e00"}  # distinct for colour-blind eyes
_REAL, _GENERATED = "#1f4e9c", "#d1495b"
_EXTENT = 3.4


def curve_figure(curves: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, int]) -> Figure:
    """Precision and recall against k and against the number of hyperplanes.

    Args:
        curves: Of :func:`.results.curves`.
        chosen: ``k`` and ``num_hyperplanes`` of the table, marked by a vertical line.
    """
    figure = new_figure(9, 5.6)
    labels = {"k": "k, the neighbour that sets the radius", "num_hyperplanes": "H, the number of hyperplanes"}
    grid = figure.subplots(2, 2, sharey=True, sharex="col")
    for column, (name, curve) in enumerate(curves.items()):
        for row, kind in enumerate(("precision", "recall")):
            axes = grid[row][column]
            axes.axvline(chosen[name], color="0.75", linewidth=6, zorder=0)
            for pair, label in PAIRS.items():
                if (values := curve.get(f"{pair}_{kind}")) is not None:
                    axes.plot(curve["x"], values, "o-", color=_COLOURS[pair], label=label, markersize=4)
            axes.set(ylim=(-0.03, 1.03), ylabel=kind.capitalize() if column == 0 else None)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.get_major_locator().set_params(integer=True)
        grid[1][column].set_xlabel(labels[name])
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=3, loc="outside upper center", frameon=False)
    return figure


def toy_points() -> tuple[np.ndarray, np.ndarray]:
    """Real (16, 2) and generated (16, 2) points: two shared groups, a lost mode, bad samples, an outlier a side."""
    random = np.random.default_rng(5)

    def group(x: float, y: float, count: int) -> np.ndarray:
        return np.array([x, y]) + 0.34 * random.normal(size=(count, 2))

    real = [group(-1.5, 1.1, 6), group(1.2, 1.4, 5), group(-1.3, -1.4, 4), [[2.8, -1.0]]]
    generated = [group(-1.4, 1.2, 5), group(1.3, 1.2, 5), group(1.1, -1.9, 5), [[-2.9, -0.2]]]
    return np.concatenate(real), np.concatenate(generated)


def covered_points(
    reference: np.ndarray, evaluated: np.ndarray, keys: tuple[np.ndarray, np.ndarray], k: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which evaluated points count, (M,), and the radius of every reference point's ball, (N,), for few points.

    Args:
        reference: (N, 2).
        evaluated: (M, 2).
        keys: Of the reference and of the evaluated points; equal keys share a region.
        k: Neighbour that sets the radius; None: every region with a reference point counts as a whole.
    """
    same = keys[1][:, None] == keys[0][None]
    if k is None:
        return same.any(axis=1), np.zeros(len(reference))
    radii = np.zeros(len(reference))
    for i, point in enumerate(reference):
        others = np.flatnonzero((keys[0] == keys[0][i]) & (np.arange(len(reference)) != i))
        if len(others):
            radii[i] = np.sort(np.linalg.norm(reference[others] - point, axis=1))[:k][-1]
    distances = np.linalg.norm(evaluated[:, None] - reference[None], axis=2)
    return (same & (distances <= radii)).any(axis=1), radii


def region_figure(k: int = 1, num_hyperplanes: int = 5, seed: int = 2) -> tuple[Figure, dict[str, float]]:
    """The metrics on toy points in the plane, after Figure 1 of Mordido et al.

    Args:
        k: Neighbour that sets the radius, >= 1.
        num_hyperplanes: Number of lines that divide the plane, >= 1.
        seed: Of the lines.

    Returns:
        Figure of eight panels, and the values ``{lsh,lsh_knn,knn}_{precision,recall}`` of the points.
    """
    real, generated = toy_points()
    planes = hyperplanes(2, num_hyperplanes, seed)
    keys = [hash_keys(torch.from_numpy(points), *planes).numpy() for points in (real, generated)]
    figure = new_figure(13, 6.9)
    panels = figure.subplots(2, 4)
    _scatter(panels[0][0], real, _REAL, "o", label="real")
    _scatter(panels[0][0], generated, _GENERATED, "s", label="generated")
    panels[0][0].set_title("Real and generated points")
    panels[0][0].legend(loc="lower left", frameon=True, fontsize=9)
    _draw_regions(panels[1][0], planes, None)
    _draw_lines(panels[1][0], planes)
    panels[1][0].set_title(f"{num_hyperplanes} random hyperplanes")
    values = {}
    sides = (
        ("precision", real, generated, keys, _REAL, _GENERATED),
        ("recall", generated, real, keys[::-1], _GENERATED, _REAL),
    )
    for row, (kind, reference, evaluated, side_keys, colour, other) in zip(panels, sides):
        for axes, (pair, label) in zip(row[1:], PAIRS.items()):
            one_region = tuple(np.zeros(len(side), int) for side in side_keys)
            used = one_region if pair == "knn" else side_keys
            counts, radii = covered_points(reference, evaluated, used, None if pair == "lsh" else k)
            if pair == "lsh":
                _draw_regions(axes, planes, side_keys[0], colour)
            if pair != "knn":
                _draw_lines(axes, planes)
            _draw_balls(axes, reference, radii, colour, None if pair == "knn" else planes)
            marks = ("o", "s") if kind == "precision" else ("s", "o")
            _scatter(axes, reference, colour, marks[0], size=14, alpha=0.55)
            _scatter(axes, evaluated[counts], other, marks[1])
            _scatter(axes, evaluated[~counts], "white", marks[1], edge=other)
            values[f"{pair}_{kind}"] = float(counts.mean())
            axes.set_title(f"{kind.capitalize()} ({label}): {counts.sum()} of {len(counts)}")
    for axes in panels.flat:
        axes.set(xlim=(-_EXTENT, _EXTENT), ylim=(-_EXTENT, _EXTENT), xticks=[], yticks=[], aspect="equal")
    return figure, values


def _scatter(
    axes: Axes, points: np.ndarray, colour: str, marker: str, *, edge: str | None = None, size: int = 34, **more: Any
) -> None:
    rim: dict[str, Any] = {"edgecolors": edge or "white", "linewidths": 1.6 if edge else 0.7}
    axes.scatter(*points.T, c=colour, marker=marker, s=size, zorder=3, **rim, **more)


def _draw_lines(axes: Axes, planes: tuple[np.ndarray, np.ndarray]) -> None:
    ends = np.array([-_EXTENT, _EXTENT])
    for (a, b), offset in zip(*planes):
        steep = abs(a) >= abs(b)
        x, y = (-(b * ends + offset) / a, ends) if steep else (ends, -(a * ends + offset) / b)
        axes.plot(x, y, color="0.35", linewidth=0.9, zorder=1)


def _draw_regions(
    axes: Axes, planes: tuple[np.ndarray, np.ndarray], filled: np.ndarray | None, colour: str = "0.5"
) -> None:
    """Regions in pale colours; with ``filled`` keys only those, in one colour."""
    from matplotlib.colors import ListedColormap

    side = np.linspace(-_EXTENT, _EXTENT, 400)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    keys = hash_keys(torch.from_numpy(grid), *planes).numpy().reshape(400, 400)
    place: dict[str, Any] = {"extent": (-_EXTENT, _EXTENT, -_EXTENT, _EXTENT), "origin": "lower", "zorder": 0}
    if filled is not None:
        inside = np.where(np.isin(keys, filled), 1.0, np.nan)
        axes.imshow(inside, cmap=ListedColormap([colour]), alpha=0.22, **place)
    else:
        numbers = np.unique(keys, return_inverse=True)[1].reshape(400, 400)
        axes.imshow(numbers, cmap="tab20", alpha=0.28, interpolation="nearest", **place)


def _draw_balls(
    axes: Axes, centres: np.ndarray, radii: np.ndarray, colour: str, planes: tuple[np.ndarray, np.ndarray] | None
) -> None:
    """Balls around the reference points; with planes each is cut to its centre's region, where alone it counts."""
    from matplotlib.patches import Circle, Polygon

    for centre, radius in zip(centres, radii):
        if not radius:
            continue
        ball = Circle(centre, radius, facecolor=colour, alpha=0.16, edgecolor="none", zorder=1)
        rim = Circle(centre, radius, facecolor="none", edgecolor=colour, linewidth=0.8, alpha=0.8, zorder=2)
        for patch in (ball, rim):
            axes.add_patch(patch)
            if planes is not None:
                patch.set_clip_path(Polygon(_region(centre, planes), transform=axes.transData))


def _region(point: np.ndarray, planes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Corners of the region around ``point``: a large square, cut by every line (Sutherland and Hodgman)."""
    corners = 10 * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    for normal, offset in zip(*planes):
        side = 1.0 if normal @ point + offset >= 0 else -1.0
        heights = side * (corners @ normal + offset)
        kept = []
        for here, after, h, g in zip(corners, np.roll(corners, -1, axis=0), heights, np.roll(heights, -1)):
            if h >= 0:
                kept.append(here)
            if (h >= 0) != (g >= 0):
                kept.append(here + (after - here) * h / (h - g))
        corners = np.array(kept)
    return corners


def to_html(figure: Figure, description: str) -> str:
    """The figure as an image in HTML, with a description for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="picture" alt="{escape(description)}" src="data:image/png;base64,{data}">'
