# SPDX-License-Identifier: Apache-2.0
"""Report of the study of feature quantization: tables with intervals, curves, codes in use, classes, samples."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.reports import markdown_table
from ..evaluation.plotting import new_figure, new_panels, save_run_curves
from ..evaluation.sampling import sample_images
from ..images.grids import save_image_grid
from ..integration.opening import load_model
from ..studies.runs import differences_table, runs_table, spread, variants_of


_TITLES = {"biggan": "BigGAN", "stylegan2": "StyleGAN2"}
ALIVE = 0.4  # share of the codes that a living codebook uses at least
_COLUMNS = {
    "FD": ("frechet_distance", -1, 2),
    "IS": ("inception_score", -1, 2),
    "KNN P": ("precision", -1, 3),
    "KNN R": ("recall", -1, 3),
    "LSH P": ("lsh_precision", -1, 3),
    "LSH R": ("lsh_recall", -1, 3),
}


def write_report(report: dict[str, Any], output: Path) -> None:
    """report.md and the pictures of the runs so far.

    Args:
        report: ``conditions`` and ``runs``, each with ``variant``, ``seed``, ``curve``, ``per_class``, ``seconds``
            (pairs of steps and CPU seconds), ``codes_in_use`` (place -> rows of step and perplexity) and ``folder``.
        output: Folder that holds the folders of the runs.
    """
    conditions, runs = report["conditions"], report["runs"]
    blocks = [
        f"# Feature quantization in the discriminator of a {_TITLES[conditions['architecture']]}",
        f"Mean and standard deviation over seeds after {conditions['max_train_steps']} steps of the generator, "
        f"{conditions['train_batch_size']} images each; {conditions['num_samples']} generated against the images of "
        f"{conditions['reference']}, KNN with k = 3, FD and inception score by the bundled classifier.",
        runs_table(runs, _COLUMNS),
        "Differences to the first variant, seed by seed: mean and 95 % interval (Student's t).",
        differences_table(runs, _COLUMNS),
        "![Curves](curves.png)",
        "## Equal time",
        "CPU seconds of a step with sampling and checkpoints but without validation, and the Frechet distance after "
        "as many seconds as all steps of the first variant took (interpolated).",
        _equal_time(runs),
        "## Codes in use",
        "Perplexity of the codes of single updates, as a share of the codes: lowest, and mean, from the start of the "
        f"codebook on, over the logged steps of all seeds; {ALIVE} is dotted.",
        _usage(runs, conditions),
        "![Codes in use](codes_in_use.png)",
        "## Classes",
        "Frechet distance of each class, mean over seeds.",
        _classes(runs),
        "![Classes](per_class.png)",
        "![Samples of the first seed](samples.png)",
        f"Conditions: {json.dumps(conditions)}",
    ]
    (output / "report.md").write_text("\n\n".join(blocks) + "\n")
    titles = {"frechet_distance": "Frechet distance", "inception_score": "inception score"}
    titles |= {"precision": "KNN precision", "recall": "KNN recall"}
    save_run_curves(variants_of(runs), output / "curves.png", titles, logarithmic=("frechet_distance",))
    _save_codes(runs, conditions, output / "codes_in_use.png")
    _save_classes(runs, output / "per_class.png")
    _save_samples(runs, output)


def _seconds_per_step(runs: list[dict]) -> float:
    pairs = [pair for run in runs for pair in run["seconds"]]  # none of a run that was killed while it was measured
    return sum(seconds for _, seconds in pairs) / sum(steps for steps, _ in pairs) if pairs else math.nan


def _equal_time(runs: list[dict]) -> str:
    rows = [["variant", "CPU s / step", "to the first variant", "steps", "FD"]]
    first = None
    for name in variants_of(runs):
        own = [run for run in runs if run["variant"] == name]
        seconds = _seconds_per_step(own)
        first = first or seconds
        steps = min(1.0, first / seconds) * own[0]["curve"][-1]["step"]
        curves = [{key: [point[key] for point in run["curve"]] for key in ("step", "frechet_distance")} for run in own]
        values = [float(np.interp(steps, curve["step"], curve["frechet_distance"])) for curve in curves]
        reached = spread([[{"FD": value}] for value in values], "FD", digits=2)
        rows.append([name, f"{seconds:.3f}", f"{seconds / first:.3f}", f"{steps:.0f}", reached])
    return markdown_table(rows)


def _usage(runs: list[dict], conditions: dict) -> str:
    with_codes = [run for run in runs if run["codes_in_use"]]
    places = list(dict.fromkeys(place for run in with_codes for place in run["codes_in_use"]))
    table = [["variant", *places]]
    for name in variants_of(with_codes):
        cells = []
        for place in places:
            rows = [run["codes_in_use"].get(place, []) for run in with_codes if run["variant"] == name]
            shares = [value / conditions["options"][name]["num_codes"] for row in rows for _, value in row]
            cells.append(f"{min(shares):.2f}, {statistics.mean(shares):.2f}" if shares else "-")
        table.append([name, *cells])
    return markdown_table(table)


def _classes(runs: list[dict]) -> str:
    table = [["variant", *map(str, range(len(runs[0]["per_class"])))]]
    for name in variants_of(runs):
        curves = [[dict(enumerate(run["per_class"]))] for run in runs if run["variant"] == name]
        table.append([name, *(spread(curves, place, digits=1).split(" ")[0] for place in curves[0][0])])
    return markdown_table(table)


def _save_codes(runs: list[dict], conditions: dict, path: Path) -> None:
    """Share of the codes in use over steps, a panel for every place, a line for every run."""
    with_codes = [run for run in runs if run["codes_in_use"]]
    places = list(dict.fromkeys(place for run in with_codes for place in run["codes_in_use"])) or ["none"]
    colours = {name: f"C{number}" for number, name in enumerate(variants_of(with_codes), 1)}
    figure, panels = new_panels(len(places), len(places), 4, 3.8)
    for axis, place in zip(panels, places):
        named = set()
        for run in with_codes:
            name = run["variant"]
            rows, codes = run["codes_in_use"].get(place, []), conditions["options"][name]["num_codes"]
            steps, shares = [step for step, _ in rows], [value / codes for _, value in rows]
            axis.plot(steps, shares, color=colours[name], alpha=0.7, label=None if name in named else name)
            named.add(name)
        axis.axhline(ALIVE, color="grey", linestyle=":")
        axis.set(xlabel="steps of the generator", ylabel="perplexity / codes", title=place, ylim=(0, 1))
    if with_codes:
        figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def _save_classes(runs: list[dict], path: Path) -> None:
    """Frechet distance of every class as bars, mean over seeds, with the range."""
    names = list(variants_of(runs))
    figure = new_figure(10, 3.8)
    axis = figure.subplots()
    for index, name in enumerate(names):
        values = list(zip(*(run["per_class"] for run in runs if run["variant"] == name)))
        means = [statistics.mean(each) for each in values]
        ends = [[m - min(v) for m, v in zip(means, values)], [max(v) - m for m, v in zip(means, values)]]
        places = [label + (index - (len(names) - 1) / 2) * 0.8 / len(names) for label in range(len(values))]
        axis.bar(places, means, 0.8 / len(names), yerr=ends, capsize=2, label=name)
    axis.set(xlabel="class", ylabel="Frechet distance", xticks=range(len(values)))
    axis.legend()
    figure.savefig(path, dpi=110)


def _save_samples(runs: list[dict], output: Path) -> None:
    """Ten images of every variant's first seed, one of each class, from the same latents; if they are there."""
    images, names = [], []
    for run in runs:
        folder = output / run["folder"] / "generator"
        if run["seed"] == runs[0]["seed"] and folder.is_dir():
            images.append(sample_images(load_model(folder), 10, progress=False)[0])
            names.append(run["variant"])
    if images:
        save_image_grid(torch.cat(images), output / "samples.png", columns=10, row_labels=names)
