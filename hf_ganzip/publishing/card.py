# SPDX-License-Identifier: Apache-2.0
"""Model cards from what is on record: the steps in ``config.json``, the files, and reports. What was not measured is not mentioned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ..assets import ASSETS
from ..inspection import describe
from ..recipes import STEPS


PICTURE = "samples.png"  # shown by the card if it lies beside it
_COSTS = {  # of a CostReport
    "parameters": ("parameters", "{:,}", 1),
    "macs": ("multiply-accumulates of one sample", "{:,}", 1),
    "bytes_on_disk": ("weights on disk", "{:.2f} MiB", 2**20),
    "peak_bytes": ("peak memory of loading and one pass", "{:.1f} MiB", 2**20),
    "latency": ("time of one pass, 2 samples", "{:.1f} ms", 1e-3),
}
_QUALITY = {  # figure -> title
    "frechet_distance": "Frechet distance",
    "precision": "KNN precision",
    "recall": "KNN recall",
    "lsh_precision": "LSH precision",
    "lsh_recall": "LSH recall",
    "lsh_knn_precision": "LSH+KNN precision",
    "lsh_knn_recall": "LSH+KNN recall",
    "density": "density",
    "coverage": "coverage",
    "kernel_distance": "kernel distance",
}
_PIPELINES = {"GANPipeline": "unconditional-image-generation", "ImageTranslationPipeline": "image-to-image"}
_MODELS = {"UNet2DModel": "unconditional-image-generation", "UGATITGenerator": "image-to-image"}
_TEMPLATE = """---
{{ metadata }}
---

# {{ title }}

{{ summary }}

## Use it

```python
{{ snippet }}
```
{% if picture %}
![Samples]({{ picture }})
{% endif %}
{%- if costs %}
## Size and speed

{{ costs }}
{% endif %}
{%- if quality %}
## Quality and diversity

{{ quality }}
{% endif %}
{%- if recipe %}
## How it was made

```yaml
{{ recipe }}```

{{ origins }}
{% endif %}
{%- if source %}
## Source of the weights

{{ source }}
{% endif %}
{%- if layers %}
<details><summary>Packed layers</summary>

{{ layers }}

</details>
{% endif %}
Written by hf_ganzip from the record in `config.json`{{ " and the reports named above" if costs or quality }}.{{ licence }}
"""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A saved model or pipeline as its files describe it.

    Args:
        class_name: Of the model, or of the pipeline.
        is_pipeline: Whether it is one.
        parts: Component ("" for a model alone) -> what :func:`.describe` finds.
    """

    class_name: str
    is_pipeline: bool
    parts: Mapping[str, Mapping[str, Any]]


def read_saved(folder: str | Path) -> Saved:
    """Describe a model folder, or every model of a pipeline folder.

    Raises:
        FileNotFoundError: Neither ``config.json`` nor ``model_index.json``.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        found = describe(folder)
        return Saved(found["class_name"], False, {"": found})
    names = json.loads(index.read_text(encoding="utf-8"))
    parts = {
        name: describe(folder / name)
        for name in names
        if (folder / name / "config.json").is_file() and any((folder / name).glob("*.safetensors"))
    }
    return Saved(names["_class_name"], True, parts)


def loading_snippet(saved: Saved, place: str) -> str:
    """Python code that loads ``place``, a Hub id, a folder or the name of a bundled model; it defines ``pipe`` or ``model``."""
    import hf_ganzip
    from hf_ganzip import models

    own = saved.class_name in hf_ganzip.__all__
    home = "hf_ganzip.models" if hasattr(models, saved.class_name) else "diffusers"
    name = "pipe" if saved.is_pipeline else "model"
    quoted = f'asset_path("{place}")' if place in ASSETS else f'"{place}"'
    lines = ["import hf_ganzip as gz"] if own else ["import hf_ganzip  # opens packed and pruned weights"]
    lines += [] if own else [f"from {home} import {saved.class_name}"]
    lines += ["from hf_ganzip.assets import asset_path"] * (place in ASSETS)
    lines += ["", f"{name} = {'gz.' if own else ''}{saved.class_name}.from_pretrained({quoted})"]
    part = saved.parts.get("" if name == "model" else "generator")
    if own and part is not None and "z_dim" in part["config"]:
        call = "pipe" if saved.is_pipeline else "gz.GANPipeline(model)"
        classes = "class_labels=0, " if part["config"].get("num_classes") else ""
        lines.append(f'images = {call}(batch_size=2, {classes}output_type="pil").images')
    return "\n".join(lines)


def render_card(
    folder: str | Path,
    repo_id: str,
    *,
    reports: Any = (),
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    title: str | None = None,
    picture: str | None = None,
) -> str:
    """Text of README.md for a saved model or pipeline.

    Args:
        folder: What ``save_pretrained`` wrote.
        repo_id: Hub id, for the loading snippet and the title; or the name of a bundled model.
        reports: Of ``quantize_``, ``prune_``, ``refine_``, ``evaluate`` and ``measure_cost``, or what their ``to_dict`` gives; one or several. Of several
            evaluations each is a row.
        base_model: Hub id of the full model; None: the one in the record, if it is one.
        license: Of the weights (a Hub identifier such as "apache-2.0"); None: that of the converted checkpoint, else "other".
        datasets: Hub ids of the training data.
        title: Heading; None: the name of the repository.
        picture: File to show, relative to the card; None: ``samples.png``, if it is in the folder.

    Raises:
        FileNotFoundError: Not a folder of a saved model.
        TypeError: A report of another kind.
    """
    saved = read_saved(folder)
    found = as_dicts(reports)
    evaluations = [report for report in found if "metrics" in report and "conditions" in report]
    costs = [report for report in found if "model" in report and "verdict" in report]
    steps = [step for part in saved.parts.values() for step in part["record"]]
    base = base_model or next((hub_id(step["base_model"]) for step in steps if hub_id(step["base_model"])), None)
    source = next((part["source"] for part in saved.parts.values() if part["source"]), None)
    if license is None and source and source["stated"]:
        license = source["license"]
    text = _environment().from_string(_TEMPLATE)
    return text.render(
        metadata=_metadata(saved, repo_id, steps, base, license, datasets, evaluations),
        title=title or repo_id.rpartition("/")[2],
        summary=_summary(saved, steps, base),
        snippet=loading_snippet(saved, repo_id),
        picture=picture or (PICTURE if Path(folder, PICTURE).is_file() else None),
        costs="\n\n".join(_cost_table(report) for report in costs),
        quality=_quality_table(evaluations),
        recipe=recipe_of(steps),
        origins=_origins(steps),
        source=_source_table(source),
        layers=_layer_table(saved),
        licence="" if license else " The licence of the weights was not stated: find it out before you use them.",
    )


def as_dicts(reports: Any) -> list[dict[str, Any]]:
    """One or several reports as plain dicts.

    Raises:
        TypeError: Something else.
    """
    if reports is None:
        return []
    several = reports if isinstance(reports, Iterable) and not isinstance(reports, (Mapping, str)) else [reports]
    found = []
    for report in several:
        if hasattr(report, "to_dict"):
            report = report.to_dict()
        if not isinstance(report, Mapping):
            raise TypeError(
                f"a report is a {type(report).__name__}; allowed are reports of hf_ganzip and their dicts."
            )
        found.append(dict(report))
    return found


def hub_id(origin: str) -> str:
    """ "org/name" of an origin on record ("org/name@revision"); "" for a local folder."""
    name = origin.partition("@")[0]
    return name if name.count("/") == 1 and not name.startswith(("/", ".")) else ""


def recipe_of(steps: Sequence[Mapping[str, Any]]) -> str:
    """The steps as YAML: a recipe for ``compress``, but for fine-tuning, which is a script."""
    rows = []
    for step in steps:
        config = STEPS[step["name"]].config if step["name"] in STEPS else None
        allowed = {each.name for each in dataclasses.fields(config)} if config else None
        options = {key: value for key, value in step["options"].items() if allowed is None or key in allowed}
        defaults = {each.name: each.default for each in dataclasses.fields(config)} if config else {}
        kept = {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
        rows.append({"step": step["name"], **kept})
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True) if rows else ""


def _environment() -> jinja2.Environment:
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _metadata(saved, repo_id, steps, base, license, datasets, evaluations) -> str:
    names = {step["name"] for step in steps}
    bits = sorted({layer["bits"] for part in saved.parts.values() for layer in part["layers"]})
    tags = ["hf_ganzip", "diffusers", saved.class_name]
    tags += ["pruned"] * ("prune" in names) + ["quantized"] * bool(bits) + [f"{each}-bit" for each in bits]
    data: dict[str, Any] = {"library_name": "hf_ganzip", "tags": tags}
    data |= {"license": license} if license else {"license": "other", "license_name": "unknown"}
    task = _PIPELINES.get(saved.class_name) or _MODELS.get(saved.class_name)
    if task is None and any("z_dim" in part["config"] for part in saved.parts.values()):
        task = "unconditional-image-generation"
    if task:
        data["pipeline_tag"] = task
    if base:
        data["base_model"] = base
        data["base_model_relation"] = "finetune" if names & {"prune", "finetune"} else "quantized"
    if datasets:
        data["datasets"] = list(datasets)
    results = [result for report in evaluations[-1:] for result in _results(report, task)]
    if results:
        data |= {"model_name": repo_id.rpartition("/")[2], "eval_results": results}
    return ModelCardData(**data).to_yaml()


def _results(report: Mapping[str, Any], task: str | None) -> list[EvalResult]:
    conditions = report["conditions"]
    arguments = {
        key: value for key, value in conditions.items() if isinstance(value, (str, int, float)) and value != ""
    }
    options = conditions.get("metric_options", {})
    return [
        EvalResult(
            task_type=task or "unconditional-image-generation",
            dataset_type=str(conditions["reference"]),
            dataset_name=str(conditions["reference"]),
            metric_type=name,
            metric_name=title,
            metric_value=round(value, 4),
            metric_args={**arguments, **options.get(metric, {}), **_settings(report["metrics"][metric])},
        )
        for metric, name, title, value in _figures(report)
    ]


def _figures(report: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Metric, figure, its title and its value."""
    found = {name: (metric, value) for metric, values in report["metrics"].items() for name, value in values.items()}
    return [(found[name][0], name, title, found[name][1]) for name, title in _QUALITY.items() if name in found]


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric says of itself beside its figures: whole numbers, names, switches."""
    return {name: value for name, value in values.items() if isinstance(value, (str, int)) and name not in _QUALITY}


def _summary(saved: Saved, steps, base: str | None) -> str:
    count = len([layer for part in saved.parts.values() for layer in part["layers"]])
    library = "pipeline" if saved.is_pipeline else "model"
    of = f" of [{base}](https://huggingface.co/{base})" if base else ""
    done = {"prune": "pruned", "refine": "refined", "finetune": "fine-tuned", "quantize": "quantized"}
    words = [done.get(name, name) for name in dict.fromkeys(step["name"] for step in steps)]
    text = f"A `{saved.class_name}` {library}" + (
        f", {', '.join(words)}{of}." if words else f"{of}, in full precision."
    )
    size = sum(part["file_bytes"] for part in saved.parts.values())
    text += f" Its weights are {size / 2**20:.2f} MiB on disk"
    if not count:
        return text + "."
    text += (
        f", {count} layers packed in {_bits(saved)} bits. Packed weights are smaller on disk and for inference only; "
    )
    return text + "they need `import hf_ganzip` before `from_pretrained`."


def _bits(saved: Saved) -> str:
    bits = sorted({layer["bits"] for part in saved.parts.values() for layer in part["layers"]})
    return ", ".join(map(str, bits[:-1])) + (" and " if len(bits) > 1 else "") + str(bits[-1])


def _cost_table(report: Mapping[str, Any]) -> str:
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


def _quality_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return ""
    names = {name: title for report in evaluations for _, name, title, _ in _figures(report)}
    lines = ["| | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    notes = []
    for report in evaluations:
        values = {name: value for _, name, _, value in _figures(report)}
        cells = [f"{values[name]:.3f}" if name in values else "-" for name in names]
        lines.append(f"| {Path(str(report['conditions']['generated'])).name} | {' | '.join(cells)} |")
        notes.append(_conditions(report["conditions"]))
    notes = list(dict.fromkeys(notes))
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


def _origins(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for step in steps:
        origin = f" of {step['base_model']}" if step.get("base_model") else ""
        libraries = ", ".join(f"{name} {version}" for name, version in step["versions"].items())
        rows.append(f"- {step['name']}{origin}" + (f" ({libraries})" if libraries else ""))
    return "\n".join(rows)


def _source_table(source: Mapping[str, Any] | None) -> str:
    if not source:
        return ""
    rows = [("format", source["format"]), ("file", source["file"]), ("SHA-256", source["sha256"])]
    rows += [("network", source["network"]), ("URL", source["url"] or "not stated"), ("licence", source["license"])]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    notes = "".join(f"\n- {note}" for note in source["notes"])
    return f"Converted by hf_ganzip without running code of the checkpoint.\n\n{table}" + (
        f"\n{notes}" if notes else ""
    )


def _layer_table(saved: Saved) -> str:
    rows = [
        f"| {f'{part}.' if part else ''}{layer['name']} | {'x'.join(map(str, layer['shape']))} | {layer['bits']} | {layer['bytes']:,} |"
        for part, found in saved.parts.items()
        for layer in found["layers"]
    ]
    return "\n".join(["| layer | shape | bits | bytes |", "|---|---|---|---|", *rows]) if rows else ""
