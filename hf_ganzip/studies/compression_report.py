# SPDX-License-Identifier: Apache-2.0
"""The report of a compression study: Markdown with tables and figures, and a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..assets import class_names
from ..core.reports import markdown_table
from ..evaluation import plotting
from ..images.grids import save_image_grid
from .compression import pictures
from .compression_config import LABELS, setting_name
from .correlation import correlation_table, pareto_front


_COLUMNS = [  # title, figure, factor, digits
    ("LSH P", "lsh_precision", 1, 3),
    ("R", "lsh_recall", 1, 3),
    ("LSH+KNN P", "lsh_knn_precision", 1, 3),
    ("R", "lsh_knn_recall", 1, 3),
    ("KNN P", "precision", 1, 3),
    ("R", "recall", 1, 3),
    ("FD", "frechet_distance", 1, 2),
    ("KD x1e3", "kernel_distance", 1e3, 2),
    ("realism", "realism", 1, 3),
    ("SQNR dB", "sqnr", 1, 1),
]


def write_report(result: dict[str, Any], output_dir: str | Path, title: str = "") -> Path:
    """Write ``report.md``, ``report.json`` and the figures of a :func:`.run_study`; returns the Markdown file.

    Raises:
        ImportError: matplotlib or scipy is missing.
    """
    output = Path(output_dir)
    rows, conditions = result["rows"], result["conditions"]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    correlations = {name: correlation_table(own) for name, own in by_method.items() if len(own) >= 3}
    front = pareto_front([(row["precision"], row["recall"]) for row in rows])
    _figures(rows, front, output, class_names(conditions["reference"]))
    found = result | {"correlations": correlations, "pareto_front": front}
    (output / "report.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    draws = rows[0]["n_draws"]
    best = "; ".join(f"{label(rows[i]['method'])} at {rows[i]['bits']} bits" for i in front)
    sections = [
        f"# {title or 'Compression study of ' + conditions['model']}",
        _about(conditions, draws),
        _table(rows),
        "## Quality against bytes\n\n"
        "Bytes of the whole model, with what stays in full precision.\n\n"
        "![Quality against bytes](rate_distortion.png)",
        "## Precision and recall\n\n![Precision and recall against bits](precision_recall.png)",
        "## Samples\n\n"
        f"The same {'noise' if 'sampler' in conditions else 'latents'} in every row.\n\n"
        "![Samples](samples.png)",
        f"## Mean images\n\nMean of {conditions['num_samples']} images.\n\n![Mean images](mean_images.png)",
        "## Pareto front\n\n"
        f"No other setting has higher KNN precision and higher recall: {best}.\n\n"
        "![Pareto front](pareto.png)",
        "## Correlation of distances with scores\n\n"
        "Over the settings of a method, bits from most to fewest. -1 is ideal.\n\n" + _correlation_table(correlations),
    ]
    if "realism_per_class" in rows[0]:
        sections.append(
            "## Realism per class\n\n"
            "Mean realism score (LSH+KNN) of generated samples against real ones of their class.\n\n"
            "![Realism per class](realism.png)"
        )
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    sections.append(
        f"Machine: {conditions['machine']}; {versions}; model SHA-256 {conditions['model_sha256'][:16]}. All numbers "
        "are in [report.json](report.json)."
    )
    file = output / "report.md"
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return file


def _about(conditions: dict[str, Any], draws: int) -> str:
    """What the figures are, and under which conditions."""
    said = (
        f"{conditions['num_samples']} generated against {conditions['n_real']} real images of "
        f"{conditions['reference']}; mean and standard deviation of {draws} draws (latents and hyperplanes of seeds "
        f"{conditions['seed']} to {conditions['seed'] + draws - 1}); k = {conditions['k']}; features "
        f"{conditions['extractor']}, digest {conditions['extractor_digest'][:12]}. FD and KD: Frechet and kernel "
        "distance of these features. Q, P+Q, S+Q and C+Q are the paper's methods with one scale per tensor; the "
        "others have a float16 scale per output channel. `auto` and what is called `best` have this library's "
        "defaults: all layers are quantized, and small and sensitive ones get more bits, for a tenth of the bytes; "
        "the others leave the last block in full precision. `mixed`: the bits of every layer are chosen by its "
        "sensitivity, within the bytes of the same setting without. Bits per weight count everything that is stored "
        "for a quantized weight; KiB are of the whole model."
    )
    if "sampler" not in conditions:
        return said
    clipped = "clipped" if conditions["clip_sample"] else "not clipped"
    images = min(conditions["sqnr_images"], conditions["num_samples"])
    return (
        f"{said}\n\n"
        f"Sampled by {conditions['sampler']}, {conditions['steps']} steps ({conditions['spacing']} spacing of "
        f"{conditions['num_train_timesteps']} timesteps, predicted images {clipped}). SQNR: signal to noise of the "
        f"noise predictions, on the trajectories of {images} images of each draw in full precision, so that earlier "
        "errors do not add up; higher is better."
    )


def label(method: str) -> str:
    """The paper's name of a method, or ours."""
    return LABELS.get(method, method)


def _figures(rows: list[dict[str, Any]], front: list[int], output: Path, classes: tuple[str, ...]) -> None:
    plotted = [
        row | {f"knn_{k}": row[k] for k in ("precision", "recall")} | {"method": label(row["method"])} for row in rows
    ]
    plotting.save_precision_recall_plot(plotted, output / "precision_recall.png")
    plotting.save_pareto_plot(plotted, front, output / "pareto.png")
    plotting.save_rate_distortion_plot(plotted, output / "rate_distortion.png")
    names = [setting_name(row["method"], row["bits"]) for row in rows]
    found = [pictures(output, row["method"], row["bits"]) for row in rows]
    save_image_grid(
        torch.cat([each["images"] for each in found]), output / "samples.png", columns=20, row_labels=names
    )
    real = pictures(output, "real", 0)["mean"]
    means = torch.stack([real, *(each["mean"] for each in found)])
    save_image_grid(means, output / "mean_images.png", columns=1, row_labels=["real images", *names])
    if "realism_per_class" in rows[0]:
        plotting.save_realism_plot(plotted, output / "realism.png", classes)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [column for column in _COLUMNS if any(column[1] in row for row in rows)]
    lines = [["method", "bits", *(title for title, *_ in columns), "bits/weight", "KiB", "s"]]
    for row in rows:
        cells = [label(row["method"]), str(row["bits"])]
        for _, key, factor, digits in columns:
            cell = f"{factor * row[key]:.{digits}f}" if key in row else "-"
            if f"{key}_std" in row and row["n_draws"] > 1:
                cell += f" ± {factor * row[f'{key}_std']:.{digits}f}"
            cells.append(cell)
        cells += [f"{row['bits_per_weight']:.2f}", f"{row['bytes'] / 1024:.0f}", f"{row['seconds']:.0f}"]
        lines.append(cells)
    return markdown_table(lines)


def _correlation_table(correlations: dict[str, list[dict[str, Any]]]) -> str:
    if not correlations:
        return "Fewer than three settings of each method."
    lines = [["method", "distance", "score", "Pearson", "Spearman"]]
    for method, pairs in correlations.items():
        for pair in pairs:
            values = (f"{pair[name]:.2f}" if pair[name] is not None else "-" for name in ("pearson", "spearman"))
            lines.append([label(method), pair["distance"], pair["score"], *values])
    return markdown_table(lines)
