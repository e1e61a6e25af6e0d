# SPDX-License-Identifier: Apache-2.0
"""Model cards from the record in ``config.json``, files and reports: what was not measured is not mentioned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..core.hub import CODE_FILES
from ..core.record import origin
from ..recipes import STEPS
from ..saved.folder import dtype_argument, loading_snippet, read_saved
from .metadata import Facts, Licence, base_of, find_licence, metadata
from .remote_code import is_standalone, remote_snippet
from .tables import changes, cost_table, details, quality_table, source_table, subject


PICTURE = "samples.png"  # shown by the card if it lies beside it
_KINDS = {  # of reports, by keys that no other kind has together
    "evaluate": {"metrics", "conditions"},
    "cost": {"model", "verdict", "conditions"},
    "quantize": {"layers", "bytes_before", "bytes_after"},
    "prune": {"sets", "parameters_before", "macs_before"},
    "refine": {"scaling", "tensors", "norms"},
}
_ESSENTIAL = {  # options that a recipe states even where they are the defaults
    "prune": ("criterion", "ratio"),
    "refine": ("scaling",),
    "quantize": ("method", "bits", "granularity"),
}
_OLDER = {"quantize": {"headroom": 0.0}}  # options that older records lack, as they were then
_DONE = {"train": "trained", "prune": "pruned", "refine": "refined", "finetune": "fine-tuned", "quantize": "quantized"}
_TEMPLATE = """---
{{ metadata }}
---

# {{ title }}
{% if picture %}
![Samples]({{ picture }})
{% endif %}
{{ summary }}

## Use it

```bash
pip install hf_ganzip
```

```python
{{ snippet }}
```
{% if remote %}
{{ remote_note }}

```python
{{ remote }}
```
{% endif %}
{%- if costs %}
## Size and speed

{{ costs }}
{% endif %}
{%- if quality %}
## Quality and diversity

{{ quality }}
{% endif %}
{%- if recipe or changes %}
## How it was made
{% if recipe %}
```yaml
{{ recipe }}```

{{ origins }}
{% endif %}
{%- if changes %}
{{ changes }}
{% endif %}
{%- endif %}
{%- if source %}
## Source of the weights

{{ source }}
{% endif %}
{%- for heading, table in details %}
<details><summary>{{ heading }}</summary>

{{ table }}

</details>
{% endfor %}
## Licence

{{ licence }}

Written by hf_ganzip from the record in `config.json`{{ " and the reports named above" if reported }}.
"""
_REMOTE = (
    "diffusers alone opens it, too, with the code that lies beside the weights, `{file}`{what}. Read it before you "
    "trust it, and name the commit that you read with `revision=`."
)
_THIN_CODE = ": a few lines that import hf_ganzip"
_STANDALONE = (
    " (Apache-2.0): all that the model needs but torch and diffusers, so that nothing has to be installed besides"
)


def render_card(
    folder: str | Path,
    repo_id: str,
    *,
    report: Any = (),
    base_model: str | None = None,
    license: str | Licence | None = None,
    datasets: Sequence[str] = (),
    title: str | None = None,
    picture: str | None = None,
) -> str:
    """Text of README.md for a saved model or pipeline.

    Args:
        folder: What ``save_pretrained`` wrote.
        repo_id: Hub id, for the loading snippet and the title; or the name of a bundled model.
        report: Of ``quantize_``, ``prune_``, ``refine_``, ``evaluate`` and ``measure_cost``, or what their ``to_dict``
            gives; one or several. Of several evaluations each is a row; ``model-index`` gets those whose ``generated``
            is called like the folder or the repository, else the first that is not called like the base model.
        base_model: Hub id of the full model; None: the one in the record, if it is one.
        license: Of the weights (a Hub identifier such as "apache-2.0"); None: as stated for the converted checkpoint,
            in README.md in the folder, or for the bundled base, else "other".
        datasets: Hub ids of the training data.
        title: Heading; None: the name of the repository.
        picture: File to show, relative to the card; None: ``samples.png``, if it is in the folder.

    Raises:
        FileNotFoundError: Not a folder of a saved model.
        ValueError: A damaged file, or a class that no library has.
        TypeError: A report of another kind.
    """
    folder = Path(folder)
    saved, found = read_saved(folder), by_kind(as_dicts(report))
    steps = [step for part in saved.parts.values() for step in part["record"]]
    base = base_of(steps, base_model)
    if license is None:
        license = find_licence(saved, folder, base)
    licence = license if isinstance(license, Licence) else Licence({"license": license})
    code = next((file.name for file in sorted(folder.rglob(CODE_FILES[0]))), "")
    own = evaluations_of(folder, repo_id, report, base_model)
    facts = Facts(saved, repo_id, steps, base, licence, datasets, own)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True).from_string(_TEMPLATE)
    return template.render(
        metadata=metadata(facts),
        title=title or repo_id.rpartition("/")[2],
        summary=_summary(facts, bool(code)),
        snippet=loading_snippet(saved, repo_id),
        remote=remote_snippet(saved, repo_id, dtype_argument(saved)) if code else "",
        remote_note=_REMOTE.format(file=code, what=_STANDALONE if is_standalone(code) else _THIN_CODE),
        picture=picture or (PICTURE if (folder / PICTURE).is_file() else None),
        costs="\n\n".join(map(cost_table, found["cost"])),
        quality=quality_table(found["evaluate"]),
        recipe=recipe_of(steps),
        origins=_origins(steps),
        changes=changes(found),
        source=source_table(next((part["source"] for part in saved.parts.values() if part["source"]), None)),
        details=details(saved, found),
        reported=any(found.values()),
        licence=licence.text,
    )


def evaluations_of(
    folder: str | Path, repo_id: str, report: Any, base_model: str | None = None
) -> list[Mapping[str, Any]]:
    """Which of the reports are evaluations of this model itself, for ``model-index``; of the others only the table
    tells. Arguments as for :func:`render_card`.

    Returns:
        All whose ``generated`` is called like the folder, the repository, or what was loaded, if no step started
        there; if there are none, the first that is not called like the base model.
    """
    saved, evaluations = read_saved(Path(folder)), by_kind(as_dicts(report))["evaluate"]
    steps = [step for part in saved.parts.values() for step in part["record"]]
    started = {_last(step["base_model"]) for step in steps}
    own = {_last(origin(Path(folder).resolve())), _last(repo_id), *({_last(saved.origin)} - started)} - {""}
    base = base_of(steps, base_model).name.rpartition("/")[2]
    found = [each for each in evaluations if subject(each) in own]
    return found or [each for each in evaluations if subject(each) != base][:1]


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


def by_kind(reports: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Kind ("evaluate", "cost", "quantize", "prune", "refine") -> reports, in their order.

    Raises:
        TypeError: A dict of no known kind.
    """
    found: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
    for report in reports:
        kind = next((kind for kind, keys in _KINDS.items() if keys <= set(report)), None)
        if kind is None:
            raise TypeError(
                f"a dict with the keys {', '.join(map(str, report)) or '(none)'} is no report that a card shows; "
                "allowed are those of quantize_, prune_, refine_, evaluate and measure_cost."
            )
        found[kind].append(report)
    return found


def recipe_of(steps: Sequence[Mapping[str, Any]]) -> str:
    """The steps as YAML: a recipe for ``compress``, but for training and fine-tuning, which are scripts.

    What a step is (criterion and ratio, scaling, method, bits and granularity) is always written, and what a preset
    would choose; of the other options those that are not the defaults.
    """
    rows = []
    for step in steps:
        config = STEPS[step["name"]].config if step["name"] in STEPS else None
        defaults = {each.name: each.default for each in dataclasses.fields(config)} if config else {}
        if "compute" in defaults:  # which follows from another option
            defaults["compute"] = "int8" if step["options"].get("activations") else "packed"
        options = {
            key: value
            for key, value in (_OLDER.get(step["name"], {}) | step["options"]).items()
            if value not in (None, {}, [], ()) and (config is None or (key in defaults and value != defaults[key]))
        }
        given = {key: step["options"][key] for key in _ESSENTIAL.get(step["name"], ()) if key in step["options"]}
        if any(step["options"].get(target) is not None for target in ("max_params", "max_macs")):
            given.pop("ratio", None)  # the target took its place
        rows.append({"step": step["name"], **given, **options})
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True) if rows else ""


def _last(name: str) -> str:
    """ "small" of "small", "org/small" and "org/small@revision"."""
    return name.partition("@")[0].rpartition("/")[2]


def _summary(facts: Facts, has_code: bool) -> str:
    saved, base = facts.saved, facts.base
    of = ""
    if base.hub_id:
        tree, at = (f"/tree/{base.revision}", f" at revision {base.revision}") if base.revision else ("", "")
        of = f" of [{base.name}](https://huggingface.co/{base.name}{tree}){at}"
    elif base.name:
        of = f" of `{base.name}`, which comes with hf_ganzip"
    elif local := next((step["base_model"] for step in facts.steps if step["base_model"]), ""):
        of = f" of a model in a local folder, `{local}`"
    words = [_DONE.get(name, name) for name in dict.fromkeys(step["name"] for step in facts.steps)]
    text = f"A `{saved.class_name}` {'pipeline' if saved.is_pipeline else 'model'}"
    precision = ", ".join(sorted({part["dtype"] for part in saved.parts.values()} - {""})) or "full precision"
    text += f", {', '.join(words)}{of}." if words else f"{of}, in {precision}."
    size = sum(part["file_bytes"] for part in saved.parts.values())
    text += f" Its weights are {size / 2**20:.2f} MiB on disk"
    count = sum(len(part["layers"]) for part in saved.parts.values())
    if not count:
        return text + "."
    *first, last = map(str, facts.bits)
    bits = f"{', '.join(first)} and {last}" if first else last
    text += f", {count} layers packed in {bits} bits. Packed weights are smaller on disk and for inference only; "
    return text + f"they need `import hf_ganzip` before `from_pretrained`{', or `trust_remote_code=True`' * has_code}."


def _origins(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for step in steps:
        origin = f" of {step['base_model']}" if step.get("base_model") else ""
        libraries = ", ".join(f"{name} {version}" for name, version in step["versions"].items())
        rows.append(f"- {step['name']}{origin}" + (f" ({libraries})" if libraries else ""))
    return "\n".join(rows)
