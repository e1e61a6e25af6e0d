# SPDX-License-Identifier: Apache-2.0
"""Tables of a card: costs, figures with their conditions, the source of converted weights, what each step did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.eval_results import figures
from ..saved.folder import Saved


_COSTS = {  # of a CostReport
    "parameters": ("parameters", "{:,}", 1),
    "macs": ("multiply-accumulates of one sample", "{:,}", 1),
    "bytes_on_disk": ("weights on disk", "{:.2f} MiB", 2**20),
    "bytes_in_memory": ("weights in memory", "{:.2f} MiB", 2**20),
    "peak_bytes": ("peak memory of loading and one pass", "{:.1f} MiB", 2**20),
    "latency": ("time of one pass, 2 samples", "{:.1f} ms", 1e-3),
}
Details = list[tuple[str, str]]  # title and table of what is collapsed


def subject(report: Mapping[str, Any]) -> str:
    """Last part of the name of what was measured: "small" of "models/small", "model:org/small" or "org/small"."""
    return Path(str(report["conditions"]["generated"])).name


def cost_table(report: Mapping[str, Any]) -> str:
    """A cost report beside that of the full model, with its conditions."""
    before, after, conditions = report.get("reference"), report["model"], report["conditions"]
    lines = ["| | full model | this model | |", "|---|---|---|---|"] if before else ["| | |", "|---|---|"]
    for name, (title, form, unit) in _COSTS.items():
        value, old = after.get(name), (before or {}).get(name)
        if value is None:
            continue
        cells = [form.format(value / unit if unit != 1 else value)]
        if before:
            old_text = form.format(old / unit if unit != 1 else old) if old is not None else "-"
            cells = [old_text, *cells, f"{old / value:.2f}x" if old and value else "-"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    verdict = f"{report['verdict'].capitalize()}. " if before else ""
    return "\n".join(lines) + f"\n\n{verdict}Conditions: {_conditions(conditions)}."


def quality_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A row for every evaluation, and all their conditions; "" without any."""
    if not evaluations:
        return ""
    names = {name: title for report in evaluations for _, name, title, _ in figures(report)}
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for report in evaluations:
        values = {name: value for _, name, _, value in figures(report)}
        cells = [f"{values[name]:.3f}" if name in values else "-" for name in names]
        lines.append(f"| {subject(report)} | {' | '.join(cells)} |")
    notes = dict.fromkeys(_conditions(report["conditions"]) for report in evaluations)
    return "\n".join(lines) + "\n\nConditions: " + ". ".join(notes) + "."


def _conditions(conditions: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} {_words(value)}" for name, value in conditions.items() if value is not None
    )


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} {_words(each)}" for key, each in value.items())
        return f"({inner})" if any(isinstance(each, Mapping) for each in value.values()) else inner or "-"
    return str(value)


def source_table(source: Mapping[str, Any] | None) -> str:
    """Where converted weights come from; "" for others."""
    if not source:
        return ""
    rows = [("format", source["format"]), ("file", source["file"]), ("SHA-256", source["sha256"])]
    licence = source["license"] + ("" if source["stated"] else " (inferred from the file's format)")
    rows += [("network", source["network"]), ("URL", source["url"] or "not stated"), ("licence", licence)]
    notes = "".join(f"\n- {note}" for note in source["notes"])
    text = f"Converted by hf_ganzip without running code of the checkpoint.\n\n{_table(('', ''), rows)}"
    return text + (f"\n{notes}" if notes else "")


def changes(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line for every report of a step: what it changed in all.

    Args:
        reports: "prune", "refine" and "quantize" -> reports of that step.
    """
    lines = []
    for report in reports["prune"]:
        parameters, macs = ((report[f"{name}_before"], report[f"{name}_after"]) for name in ("parameters", "macs"))
        text = f"{parameters[0]:,} to {parameters[1]:,} parameters, {macs[0]:,} to {macs[1]:,} multiply-accumulates"
        lines.append(f"- prune by {report['criterion']}: {text}")
    for report in reports["refine"]:
        weights = [tensor for tensor in report["tensors"] if tensor["singular_values_before"] is not None]
        biases = len(report["tensors"]) - len(weights)
        text = f"{len(weights)} weights and {biases} biases scaled, {len(report['norms'])} norms reset"
        lines.append(f"- refine by {report['scaling']}: {text}")
    for report in reports["quantize"]:
        done = [layer for layer in report["layers"] if layer["skipped"] is None]
        text = f"{len(done)} of {len(report['layers'])} weights, {report['bits_per_weight']:.3f} bits per weight"
        lines.append(f"- quantize: {text}, {report['bytes_before']:,} to {report['bytes_after']:,} bytes of tensors")
    return "\n".join(lines)


def details(saved: Saved, reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> Details:
    """Titles and tables of single layers: of reports of steps, and of packed layers that no report covers."""
    found: Details = [("Channels before and after pruning", _pruned(report)) for report in reports["prune"]]
    found += [("Singular values before and after refining", _refined(report)) for report in reports["refine"]]
    found += [("Weights before and after quantization", _quantized(report)) for report in reports["quantize"]]
    if saved.is_pipeline or not reports["quantize"]:
        found += [("Packed layers", _packed(saved))]
    return [(title, table) for title, table in found if table]


def _pruned(report: Mapping[str, Any]) -> str:
    rows = [(each["name"], each["before"], each["after"]) for each in report["sets"]]
    return _table(("channels", "before", "after"), rows)


def _refined(report: Mapping[str, Any]) -> str:
    rows = [
        (
            tensor["name"],
            _shape(tensor),
            *(f"{max(tensor[f'singular_values_{when}']):.3g}" for when in ("before", "after")),
            *(_number(tensor[f"condition_{when}"], ".1f", "infinite") for when in ("before", "after")),
        )
        for tensor in report["tensors"]
        if tensor["singular_values_before"] is not None
    ]
    return _table(("weight", "shape", "largest before", "largest after", "condition before", "condition after"), rows)


def _quantized(report: Mapping[str, Any]) -> str:
    rows = [
        (
            layer["name"],
            _shape(layer),
            layer["method"] or "-",
            layer["bits"] or "-",
            f"{layer['bytes_before']:,}",
            f"{layer['bytes_after']:,}",
            _number(layer["sqnr_db"], ".2f", "-"),
            layer["skipped"] or "",
        )
        for layer in report["layers"]
    ]
    titles = ("weight", "shape", "method", "bits", "bytes before", "bytes after", "SQNR dB", "why not quantized")
    return _table(titles, rows)


def _packed(saved: Saved) -> str:
    rows = [
        (f"{part}.{layer['name']}" if part else layer["name"], _shape(layer), layer["bits"], f"{layer['bytes']:,}")
        for part, found in saved.parts.items()
        for layer in found["layers"]
    ]
    return _table(("layer", "shape", "bits", "bytes"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown; "" without rows."""
    head, *lines = ["| " + " | ".join(map(str, line)) + " |" for line in (titles, *rows)]
    return "\n".join([head, "|---" * len(titles) + "|", *lines]) if rows else ""


def _shape(entry: Mapping[str, Any]) -> str:
    return "x".join(map(str, entry["shape"])) or "scalar"


def _number(value: float | None, form: str, otherwise: str) -> str:
    return otherwise if value is None else format(value, form)
