# SPDX-License-Identifier: Apache-2.0
"""Report and picture of a study of outliers: :mod:`.outlier_drift` over kinds of features and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.reports import markdown_table
from .outlier_drift import PARTS, PLACES, SIDES, drift, gaps_of, mean_drift, passed
from .pooled_scores import METHODS


Runs = Sequence[Mapping[str, Any]]
_TITLES = {"stay": "must stay", "fall": "must fall", "both": "outliers in both"}
_UNITS = {
    "gap": (100, "percent of the method's own gap between a good and a bad generator, without outliers"),
    "value": (100, "percent of the value without outliers"),
    "point": (1, "points of 0.01"),
}
_DRIFT = (
    "Drift: absolute change beyond what outliers must change. Precision must stay with outliers in the reference, and "
    "fall by their share with outliers in the generated set; recall the reverse; with outliers in both, both fall by "
    "at most the share. Means over generators and shares."
)
_PASSED = (
    "Share of the outliers that count as covered, mean over generators, of reals by recall and of generated ones by "
    "precision, each with outliers in that set only (drift over share: what all other samples lose or gain by the "
    "outliers is in it)."
)
_GAPS = (
    "Precision of real images minus that of the poor generator, recall of real images minus that of the generator "
    "with half the classes: without outliers -> with {} of them; in brackets in how many runs it is above 0."
)
_GEOMETRY = (
    "Of the outliers in the reference: distance to the nearest ordinary image and radius of their balls, in median "
    "radii of ordinary images; share that has its hash cell for itself, without ordinary images; samples of each "
    "generator in an outlier's ball."
)


def verdict(runs: Runs, method: str = "LSH+KNN", other: str = "KNN", part: str = "stay") -> str:
    """Markdown table of paired differences in drift, in percent of the gap, by share: mean and deviation over seeds,
    and in how many runs it is above 0.
    """
    kinds = _kinds(runs)
    rows = []
    for share in runs[0]["both"]:
        row, signs = [_percent(share)], []
        for own in kinds.values():
            pairs = [[mean_drift(run, each, part, "gap", share) for each in (method, other)] for run in own]
            row.append(_spread([100 * (a - b) for a, b in pairs], "+.2f"))
            signs += [a > b for a, b in pairs]
        rows.append([*row, f"{sum(signs)} of {len(signs)}"])
    return markdown_table([["outliers", *kinds, f"{method} drifts more in"], *rows])


def study_report(runs: Runs, conditions: Mapping[str, Any]) -> str:
    """Markdown: drifts, what is left of the gaps, what the outliers are like, values with and without outliers."""
    shares, names, kinds = list(runs[0]["both"]), list(runs[0]["clean"]), _kinds(runs)
    first, middle, last = shares[0], shares[len(shares) // 2], shares[-1]
    blocks = [
        "# Outliers in precision and recall",
        f"{conditions['num_samples']} images a side, k = 3 (coverage 5), {conditions['draws']} draws of the "
        f"hyperplanes, outliers: {conditions['outliers']}; mean and standard deviation over seeds.",
        "![Drift](outliers.png)",
        _DRIFT,
    ]
    for unit, (scale, title) in _UNITS.items():
        rows = [
            [f"{kind} (d = {own[0]['dim']:,})", _TITLES[part]]
            + [_spread([scale * mean_drift(run, method, part, unit) for run in own], ".2f") for method in METHODS]
            for kind, own in kinds.items()
            for part in PARTS
        ]
        blocks += [f"In {title}:", _table(["features", "values"], rows)]
    for part in PARTS:
        what = _TITLES[part] if part == "both" else f"values that {_TITLES[part]}"
        blocks += [f"LSH+KNN minus KNN, {what}, percent of the gap:", verdict(runs, part=part)]
    rows = [
        [kind, _percent(share), *(_spread([passed(run, method, share) for run in own], ".2f") for method in METHODS)]
        for kind, own in kinds.items()
        for share in shares
    ]
    blocks += ["## Outliers that pass", _PASSED, _table(["features", "share"], rows)]
    blocks += ["## Good and bad generators", _GAPS.format(_percent(last))]
    blocks += [_table(["features", "outliers in"], _kept_gaps(kinds, last))]
    blocks += ["## The outliers", _GEOMETRY, _geometry_table(kinds, shares, names)]
    blocks.append(
        f"## Precision / recall: without outliers, with {_percent(middle)} in the reference, in the generated set"
    )
    for kind, own in kinds.items():
        rows = [[name, *(_values(own, name, method, middle) for method in METHODS)] for name in names]
        blocks += [f"**{kind}**", _table(["generator"], rows)]
    rows = [
        [kind, name, *(_pair([run["clean"][name][method] for run in own]) for method in METHODS)]
        for kind, own in kinds.items()
        for name in names
    ]
    blocks += ["## Without outliers", _table(["features", "generator"], rows)]
    for share in (first, last):
        blocks.append(f"## Changes by {_percent(share)} outliers")
        blocks.append("Change of the value, and in brackets its drift: precision, recall.")
        for kind, own in kinds.items():
            blocks += [f"**{kind}**", _table(["outliers in", "generator"], _changes(own, share))]
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of rows that end in a cell for every method."""
    return markdown_table([[*head, *METHODS], *rows])


def _geometry_table(kinds: Mapping[str, Runs], shares: Sequence[str], names: Sequence[str]) -> str:
    rows = [["features", "share", "distance", "radius", "alone", *(f"inside: {name}" for name in names)]]
    for kind, runs in kinds.items():
        for share in shares:
            found = [run["geometry"][share] for run in runs]
            cells = [_spread([each[name] for each in found], ".2f") for name in ("distance", "radius", "alone")]
            inside = [_spread([each["inside"][name] for each in found], ".1f") for name in names]
            rows.append([kind, _percent(share), *cells, *inside])
    return markdown_table(rows)


def _percent(share: str) -> str:
    return f"{100 * float(share):.3g} %"


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else mean


def _pair(values: Sequence[Sequence[float]]) -> str:
    return " / ".join(_spread(side) for side in zip(*values))


def _kinds(runs: Runs) -> dict[str, list[Mapping[str, Any]]]:
    """Runs of every kind of features."""
    return {kind: [run for run in runs if run["kind"] == kind] for kind in dict.fromkeys(run["kind"] for run in runs)}


def _values(runs: Runs, name: str, method: str, share: str) -> str:
    sets = [[run["clean"] for run in runs], *([run[place][share] for run in runs] for place in PLACES[:2])]
    cells = [[statistics.fmean(each[name][method][i] for each in scores) for i in (0, 1)] for scores in sets]
    return ", ".join(" / ".join(f"{value:.3f}" for value in cell) for cell in cells)


def _changes(runs: Runs, share: str) -> list[list[str]]:
    rows = []
    for place in PLACES:
        for name in runs[0]["clean"]:
            cells = []
            for method in METHODS:
                pairs = [
                    [(run["clean"][name][method][i], run[place][share][name][method][i]) for run in runs]
                    for i in (0, 1)
                ]
                changes = [statistics.fmean(after - before for before, after in pair) for pair in pairs]
                drifts = [
                    statistics.fmean(drift(*values, side, place, float(share)) for values in pair)
                    for side, pair in zip(SIDES, pairs)
                ]
                cells.append(", ".join(f"{change:+.3f} ({left:+.3f})" for change, left in zip(changes, drifts)))
            rows.append([place, name, *cells])
    return rows


def _kept_gaps(kinds: Mapping[str, Runs], share: str) -> list[list[str]]:
    rows = []
    for kind, runs in kinds.items():
        before = [gaps_of(run["clean"]) for run in runs]
        for place in PLACES:
            after = [gaps_of(run[place][share]) for run in runs]
            cells = []
            for method in METHODS:
                sides = [[[gaps[method][i] for gaps in each] for each in (before, after)] for i in (0, 1)]
                cells.append(
                    ", ".join(f"{_spread(a)} -> {_spread(b)} ({sum(gap > 0 for gap in b)})" for a, b in sides)
                )
            rows.append([kind, place, *cells])
    return rows


def save_drift_plot(runs: Runs, path: Any) -> None:
    """Drift in percent of the gap against the share of outliers: a row of panels per kind of features, a column per
    kind of value.

    Lines are means over generators and seeds; bands one standard deviation over seeds, of KNN and LSH+KNN only.

    Raises:
        ImportError: matplotlib is missing.
    """
    from ..evaluation.plotting import new_figure

    kinds = _kinds(runs)
    figure = new_figure(10, 1 + 2.2 * len(kinds))
    axes = figure.subplots(len(kinds), len(PARTS), sharex=True, sharey=True, squeeze=False)
    shares = list(runs[0]["both"])
    x = [100 * float(share) for share in shares]
    for (kind, own), row in zip(kinds.items(), axes):
        for part, axis in zip(PARTS, row):
            for method in METHODS:
                values = [[100 * mean_drift(run, method, part, "gap", share) for run in own] for share in shares]
                means = [statistics.fmean(each) for each in values]
                width = 2 if method in ("KNN", "LSH+KNN") else 1
                (line,) = axis.plot(x, means, marker="o", ms=3, lw=width, label=method)
                if len(own) > 1 and width > 1:
                    ends = [[m + sign * statistics.stdev(v) for m, v in zip(means, values)] for sign in (-1, 1)]
                    axis.fill_between(x, *ends, color=line.get_color(), alpha=0.15, lw=0)
            axis.set_title(f"{kind}: {_TITLES[part]}", fontsize=8)
            axis.set(xscale="log")
            axis.set_yscale("symlog", linthresh=1)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("drift, % of the gap")
    axes[0][0].set_ylim(bottom=0)
    for axis in axes[-1]:
        axis.set_xlabel("outliers, % of the set")
        axis.set_xticks(x, [f"{value:.3g}" for value in x])
        axis.minorticks_off()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), fontsize=8)
    figure.savefig(path, dpi=110)
