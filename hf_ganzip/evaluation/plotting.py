# SPDX-License-Identifier: Apache-2.0
"""Pictures from reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.extras import needed_by


if TYPE_CHECKING:
    from ..quantization.sensitivity import SensitivityReport
    from ..refine import RefineReport


_MARKERS = "os^Dv*PX<>"


def _styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every method, in the order of the first mention."""
    names = list(dict.fromkeys(methods))
    colours = [f"C{i}" for i in range(10)]
    if len(names) > len(colours):
        import matplotlib

        colours = list(matplotlib.colormaps["tab20"].colors)
    return {name: {"color": c, "marker": m} for name, c, m in zip(names, cycle(colours), cycle(_MARKERS))}


def new_figure(width: float, height: float):
    """An empty matplotlib figure (inches) that belongs to no window.

    Raises:
        ImportError: matplotlib is missing.
    """
    with needed_by("Plots need matplotlib", "plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_panels(count: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Any, list[Any]]:
    """A figure of ``count`` panels of this size (inches), row by row, at most ``columns`` in a row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False, **shared).flatten().tolist()
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


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
        xscale="log",
        xlabel="error of the output, relative to its mean square",
        ylabel="layer",
        title="One layer quantized at a time",
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    axes.legend()
    figure.savefig(path, dpi=110)


def save_pareto_plot(rows: list[dict], front: Sequence[int], path: str | Path) -> None:
    """Plot KNN precision against recall, one point per setting, with the Pareto front.

    Args:
        rows: Dicts with ``method``, ``bits``, ``knn_precision`` and ``knn_recall``.
        front: Indices of the rows on the front.
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(7, 6)
    axes = figure.subplots()
    for method, style in _styles(row["method"] for row in rows).items():
        own = [row for row in rows if row["method"] == method]
        points = [[row[f"knn_{kind}"] for row in own] for kind in ("recall", "precision")]
        axes.plot(*points, linestyle="", label=method, markersize=6, **style)
        for row in own:
            axes.annotate(f" {row['bits']}", (row["knn_recall"], row["knn_precision"]), fontsize=7)
    chosen = sorted((rows[i]["knn_recall"], rows[i]["knn_precision"]) for i in front)
    axes.plot(*zip(*chosen), color="gray", linewidth=1, zorder=0, label="Pareto front")
    axes.set(xlabel="recall (KNN)", ylabel="precision (KNN)", title="Numbers are bits")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def save_rate_distortion_plot(rows: list[dict], path: str | Path) -> None:
    """Plot the Frechet distance, and where it was measured the signal to noise of noise predictions, against the bytes
    of the whole model.

    Args:
        rows: Dicts with ``method``, ``bits`` (32 = full precision, a black line), ``bytes``, ``frechet_distance`` and,
            for diffusion models, ``sqnr``.
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    full = next(row for row in rows if row["bits"] == 32)
    compressed = [row for row in rows if row["bits"] != 32]
    titles = {"frechet_distance": "Frechet distance", "sqnr": "SQNR of noise predictions in dB"}
    titles = {key: title for key, title in titles.items() if any(key in row for row in rows)}
    figure, panels = new_panels(len(titles), len(titles), 6, 5)
    from matplotlib.ticker import LogFormatter

    for axes, (key, title) in zip(panels, titles.items()):
        for method, style in _styles(row["method"] for row in compressed).items():
            own = sorted((row for row in compressed if row["method"] == method), key=lambda row: row["bytes"])
            sizes = [row["bytes"] / 1024 for row in own]
            axes.plot(sizes, [row[key] for row in own], label=method, markersize=5, linewidth=1, **style)
            for size, row in zip(sizes, own):
                axes.annotate(f" {row['bits']}", (size, row[key]), fontsize=7)
        if key in full:
            axes.axhline(full[key], color="black", linewidth=0.8, label="full precision")
        axes.set(xlabel="KiB of the whole model", ylabel=title)
        if key == "frechet_distance":
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(LogFormatter())
        axes.grid(alpha=0.4)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    figure.suptitle("Quality against bytes; numbers are bits")
    figure.savefig(path, dpi=110)


def save_realism_plot(rows: list[dict], path: str | Path, class_names: Sequence[str] = ()) -> None:
    """Plot the mean realism of every class against bits, one panel per method.

    Args:
        rows: Dicts with ``method``, ``bits`` and ``realism_per_class``; the row with 32 bits belongs to every panel.
        path: PNG file.
        class_names: For the legend; without them, numbers.

    Raises:
        ImportError: matplotlib is missing.
    """
    full = next(row for row in rows if row["bits"] == 32)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["bits"] != 32))
    figure, panels = new_panels(len(methods), 3, 4, 3.2, sharey=True)
    for axes, method in zip(panels, methods):
        own = [full, *sorted((row for row in rows if row["method"] == method), key=lambda row: -row["bits"])]
        bits = [str(row["bits"]) for row in own]
        for number in range(len(full["realism_per_class"])):
            name = class_names[number] if class_names else str(number)
            axes.plot(bits, [row["realism_per_class"][number] for row in own], marker="o", markersize=3, label=name)
        axes.set(title=method, xlabel="bits", ylabel="mean realism")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, title="class", fontsize=7, loc="outside right center")
    figure.savefig(path, dpi=110)


def save_precision_recall_plot(rows: list[dict], path: str | Path) -> None:
    """Plot precision and recall against bits, one panel per pair of metrics, one line per method.

    Args:
        rows: Dicts with ``method``, ``bits`` (32 = full precision, a thin black line) and the six values
            ``{lsh,lsh_knn,knn}_{precision,recall}``.
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    full = next(row for row in rows if row["bits"] == 32)
    compressed = [row for row in rows if row["bits"] != 32]
    styles = _styles(row["method"] for row in compressed)
    many = len(styles) > 3  # then precision and recall get panels of their own
    figure = new_figure(11, 7 if many else 4)
    grid = figure.subplots(2 if many else 1, 3, sharey=True, squeeze=False)
    for column, (key, title) in enumerate([("lsh", "LSH"), ("lsh_knn", "LSH+KNN"), ("knn", "KNN")]):
        for line, (kind, dashes) in enumerate((("precision", "-"), ("recall", "--"))):
            axes = grid[line if many else 0][column]
            name = "" if many else f", {kind}"
            dashes = "-" if many else dashes
            black = {"color": "black", "linewidth": 0.8, "label": f"full precision{name}"}
            axes.axhline(full[f"{key}_{kind}"], linestyle=dashes, **black)
            for method, style in styles.items():
                points = sorted((row["bits"], row[f"{key}_{kind}"]) for row in compressed if row["method"] == method)
                axes.plot(*zip(*points), linestyle=dashes, markersize=5, label=f"{method}{name}", **style)
            axes.set(title=f"{title} {kind}" if many else title, xlabel="bits", ylim=(-0.02, 1.02))
    for axes in grid.flatten():
        axes.set_xticks(sorted({row["bits"] for row in compressed}))
        axes.invert_xaxis()
    for axes, kind in zip(grid[:, 0], ("precision", "recall") if many else ("precision, recall",)):
        axes.set_ylabel(kind)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5 if many else 3)
    figure.suptitle("Precision and recall against bits")
    figure.savefig(path, dpi=110)


def save_spectra_plot(report: RefineReport, path: str | Path) -> None:
    """Singular values of every weight before and after refining, as PNG (Singular Value Scaling, figure 1).

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, panels = new_panels(len(report.weights), 4, 3, 2.2)
    for axes, weight in zip(panels, report.weights):
        for label, values in (("before", weight.singular_values_before), ("after", weight.singular_values_after)):
            marker = "o" if len(values) == 1 else ""  # a line of one point is invisible
            axes.plot(range(1, len(values) + 1), sorted(values, reverse=True), marker=marker, label=label)
        axes.set_yscale("log")
        if len(values) == 1:
            axes.set_xticks([1])
        axes.set_xlabel("index", fontsize=6)
        axes.set_ylabel("singular value", fontsize=6)
        axes.set_title(weight.name.removesuffix(".weight"), fontsize=7)
        axes.tick_params(which="both", labelsize=6)
    panels[0].legend(fontsize=6)
    figure.suptitle(f"singular values, {report.scaling}", fontsize=9)
    figure.savefig(path, dpi=120)


def save_training_curves(rows: Sequence[dict], path: str | Path) -> None:
    """Plot every figure of a training's validations against the images seen: those of the averaged and of the trained
    weights in one panel.

    Args:
        rows: In the order of training, each with "images" and figures by name, which "average_" or "trained_" comes
            before.
        path: PNG file.
    """
    lines = {name: name.partition("_")[::2] for row in rows for name in row if name not in ("step", "images")}
    names = list(dict.fromkeys(name for _, name in lines.values()))
    figure, panels = new_panels(len(names), 3, 4, 3.2)
    for axes, name in zip(panels, names):
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.set_xlabel("images seen", fontsize=8)
        axes.set_ylabel(name.replace("_", " "), fontsize=8)
    for key, (weights, name) in lines.items():
        points = [(row["images"], row[key]) for row in rows if key in row]
        panels[names.index(name)].plot(*zip(*points), marker="o", markersize=3, label=weights)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def save_sqnr_plot(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot the signal to noise of noise predictions against the timestep, one line a denoiser, with intervals.

    Args:
        rows: In the order of sampling, each with ``component``, ``timestep``, ``sqnr`` (dB, left out where infinite),
            ``low`` and ``high`` (or None).
        path: PNG file.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(7, 3.6)
    axis = figure.subplots()
    for component in dict.fromkeys(row["component"] for row in rows):
        own = [row for row in rows if row["component"] == component and math.isfinite(row["sqnr"])]
        steps = [row["timestep"] for row in own]
        (line,) = axis.plot(steps, [row["sqnr"] for row in own], marker="o", markersize=3, label=component or None)
        if all(row["low"] is not None and math.isfinite(row["low"] + row["high"]) for row in own):
            ends = ([row[end] for row in own] for end in ("low", "high"))
            axis.fill_between(steps, *ends, alpha=0.2, color=line.get_color())
    axis.invert_xaxis()  # sampling goes from noise to image
    axis.set(xlabel="timestep, noise to image", ylabel="SQNR in dB")
    axis.grid(alpha=0.4)
    if any(row["component"] for row in rows):
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def save_run_curves(
    variants: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    path: str | Path,
    titles: Mapping[str, str],
    baseline: Mapping[str, float] | None = None,
    logarithmic: Sequence[str] = (),
) -> None:
    """Plot figures of repeated runs against the images seen: the mean and the range over runs.

    Args:
        variants: Name -> curves, one per run, of points with "images" and the figures; only as far as every run has
            come.
        path: PNG file.
        titles: Figure -> title of its panel.
        baseline: Figures drawn as dotted lines.
        logarithmic: Figures on a logarithmic axis.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, panels = new_panels(len(titles), len(titles), 5, 4.2)
    for axis, (name, title) in zip(panels, titles.items()):
        for variant, curves in variants.items():
            points = list(zip(*curves))
            seen = [each[0]["images"] for each in points]
            values = [[point[name] for point in each] for each in points]
            (line,) = axis.plot(seen, [sum(each) / len(each) for each in values], label=variant)
            axis.fill_between(seen, list(map(min, values)), list(map(max, values)), alpha=0.2, color=line.get_color())
        if baseline is not None:
            axis.axhline(baseline[name], color="grey", linestyle=":", label="dense")
        axis.set(xlabel="images seen", ylabel=title, title=title, yscale="log" if name in logarithmic else "linear")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
