# SPDX-License-Identifier: Apache-2.0
"""Report of the study of Singular Value Scaling: tables with intervals, curves, paired differences, spectra."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.plotting import new_figure, new_panels, save_run_curves
from ..studies.runs import differences_table, half_interval, paired_differences, runs_table, variants_of


SPECTRUM = {f"sigma_{i / 8:.3f}": i / 8 for i in range(9)}  # name -> place among the singular values, descending
_TITLES = {
    "frechet_distance": "Frechet distance",
    "ssim": "SSIM to the dense model",
    "noise_error": "error of the predicted noise",
    "precision": "KNN precision",
    "recall": "KNN recall",
    "condition": "median condition number",
}
_DIGITS = {"frechet_distance": 2, "ssim": 4, "noise_error": 5}  # figures whose differences are followed


def write_report(report: dict[str, Any], output: Path) -> None:
    """report.md, curves.png, differences.png and spectra.png of the runs so far.

    Args:
        report: ``conditions``, the figures of the ``dense`` network, and ``runs``, each with ``variant``, ``seed`` and
            ``curve``.
        output: Folder.
    """
    conditions, dense, runs = report["conditions"], report["dense"], report["runs"]
    measured = set(dense).intersection(*(point for run in runs for point in run["curve"]))
    columns = {
        "FD before": ("frechet_distance", 0, 2),
        "FD after": ("frechet_distance", -1, 2),
        "SSIM": ("ssim", -1, 4),
        "KNN P": ("precision", -1, 3),
        "KNN R": ("recall", -1, 3),
        "LSH P": ("lsh_precision", -1, 3),
        "LSH R": ("lsh_recall", -1, 3),
        "noise error before": ("noise_error", 0, 4),
        "noise error after": ("noise_error", -1, 5),
        "median condition before": ("condition", 0, 2),
        "after": ("condition", -1, 2),
    }
    columns = {title: column for title, column in columns.items() if column[0] in measured}
    followed = [name for name in _DIGITS if name in measured]
    compared = len(variants_of(runs)) > 1
    blocks = [
        f"# Singular Value Scaling: {Path(str(conditions['model'])).name}, {conditions['ratio']:.0%} of the channels "
        "removed",
        f"Mean and standard deviation over seeds after {conditions['max_train_steps']} steps of "
        f"{conditions['train_batch_size']} images; {conditions['num_samples']} generated against the images of "
        f"{conditions['reference']}, KNN with k = 3. " + _of_dense(dense),
        runs_table(runs, columns, "start"),
        "![Curves](curves.png)",
        *(_differences(runs, followed) if compared else []),
        "![Singular values before and after training](spectra.png)",
        f"Conditions: {json.dumps(conditions)}",
    ]
    (output / "report.md").write_text("\n\n".join(blocks) + "\n")
    unpanelled = ("precision", "recall") if "ssim" in measured and "noise_error" in measured else ()
    titles = {name: title for name, title in _TITLES.items() if name in measured and name not in unpanelled}
    logarithmic = ("frechet_distance", "condition", "noise_error")
    save_run_curves(variants_of(runs), output / "curves.png", titles, dense, logarithmic)
    if compared:
        _save_differences(runs, followed, output / "differences.png")
    save_spectra(variants_of(runs), dense, output / "spectra.png")


def _of_dense(dense: Mapping[str, float]) -> str:
    said = (
        f"The dense network: FD {dense['frechet_distance']:.2f}, KNN P {dense['precision']:.3f}, "
        f"R {dense['recall']:.3f}"
    )
    if "noise_error" in dense:
        said += f", noise error {dense['noise_error']:.5f} (mean square, held-out images)"
    return said + (
        "; SSIM is that of its images and those of the pruned network from the same noise." if "ssim" in dense else "."
    )


def _differences(runs: list[dict], followed: Sequence[str]) -> list[str]:
    """Tables of the differences to the first variant over the training."""
    said = "seed by seed, after so many steps: mean and 95 % interval (Student's t)."
    blocks = [f"Differences to {next(iter(variants_of(runs)))}, {said}"]
    steps = [point["step"] for point in runs[0]["curve"]]
    for name in followed:
        columns = {str(step): (name, place, _DIGITS[name]) for place, step in enumerate(steps)}
        blocks += [f"{_TITLES[name]}:", differences_table(runs, columns, "start")]
    return [*blocks, "![Differences over the training](differences.png)"]


def _save_differences(runs: list[dict], followed: Sequence[str], path: Path) -> None:
    """Means of the differences to the first variant after the start, with 95 % intervals from two seeds on."""
    figure, panels = new_panels(len(followed), len(followed), 5, 4)
    steps = [point["step"] for point in runs[0]["curve"]]
    for axis, name in zip(panels, followed):
        found = [paired_differences(runs, name, place) for place in range(len(steps))]
        for number, variant in enumerate(found[0], 1):  # the first variant has colour 0 in the curves
            values = [each[variant] for each in found[1:]]
            means = [statistics.mean(each) for each in values]
            halves = [half_interval(each) for each in values] if len(values[0]) > 1 else None
            axis.errorbar(
                steps[1:], means, halves, color=f"C{number}", marker="o", markersize=3, capsize=3, label=variant
            )
        axis.axhline(0, color="grey", linestyle=":", label=next(iter(variants_of(runs))))
        axis.set(xlabel="steps", ylabel="difference", title=_TITLES[name])
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def save_spectra(variants: dict[str, list[list[dict]]], dense: dict, path: Path) -> None:
    """Singular values over the largest against their place, before and after training; means over weights and seeds."""
    figure = new_figure(11, 4.2)
    for axis, place, title in zip(figure.subplots(1, 2, sharey=True), (0, -1), ("before training", "after training")):
        for variant, curves in variants.items():
            means = [statistics.mean(curve[place][name] for curve in curves) for name in SPECTRUM]
            axis.plot(list(SPECTRUM.values()), means, marker="o", markersize=3, label=variant)
        axis.plot(list(SPECTRUM.values()), [dense[name] for name in SPECTRUM], ":", color="grey", label="dense")
        axis.set(title=title, xlabel="place among the singular values", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("singular value / largest")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
