# SPDX-License-Identifier: Apache-2.0
"""The YAML head of a card: base model, licence, tags and the figures as ``model-index``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData, metadata_load

from ..assets import ASSETS, asset_path
from ..evaluation.eval_results import QUALITY, figures
from ..saved.folder import Saved


_PIPELINES = {
    **dict.fromkeys(("GANPipeline", "DDPMPipeline", "DDIMPipeline"), "unconditional-image-generation"),
    "ImageTranslationPipeline": "image-to-image",
    **dict.fromkeys((f"StableDiffusion{kind}Pipeline" for kind in ("", "XL", "3")), "text-to-image"),
    **dict.fromkeys(("FluxPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline"), "text-to-image"),
    "WanPipeline": "text-to-video",
}
_MODELS = {"UNet2DModel": "unconditional-image-generation", "UGATITGenerator": "image-to-image"}
_TRAINED = {"prune", "refine", "finetune", "train"}  # steps after which the weights are no longer those of the base
_LICENCE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Base:
    """The full model.

    Args:
        name: Hub id, or bundled name; "" if unknown.
        revision: On record; "" if unknown.
    """

    name: str = ""
    revision: str = ""

    @property
    def hub_id(self) -> str:
        """The name if it is a Hub id, else ""."""
        return hub_id(self.name)


@dataclass(frozen=True)
class Licence:
    """What a card says of the licence of the weights.

    Args:
        metadata: ``license``, and ``license_name`` and ``license_link`` where it is "other".
        note: Where it comes from, or that it is unknown: a sentence, or "".
    """

    metadata: Mapping[str, str]
    note: str = ""

    @property
    def text(self) -> str:
        """Sentences for the card."""
        if self.metadata["license"] == "other" and self.note:
            return self.note
        name = self.metadata.get("license_name") or self.metadata["license"]
        link = self.metadata.get("license_link")
        return " ".join(filter(None, [f"The weights are under {f'[{name}]({link})' if link else name}.", self.note]))


@dataclass(frozen=True)
class Facts:
    """What the head of a card and its first paragraph are made of.

    Args:
        saved: The files.
        repo_id: Hub id, or bundled name.
        steps: On record, of all parts.
        base: The full model.
        licence: Of the weights.
        datasets: Hub ids.
        evaluations: Those of this model.
    """

    saved: Saved
    repo_id: str
    steps: Sequence[Mapping[str, Any]]
    base: Base
    licence: Licence
    datasets: Sequence[str] = ()
    evaluations: Sequence[Mapping[str, Any]] = ()

    @property
    def bits(self) -> list[int]:
        """Of the packed layers, ascending, each once."""
        return sorted({layer["bits"] for part in self.saved.parts.values() for layer in part["layers"]})


def hub_id(origin: str) -> str:
    """ "org/name" of an origin on record ("org/name@revision"); "" for a local folder."""
    name = origin.partition("@")[0]
    return name if name.count("/") == 1 and not name.startswith(("/", ".")) else ""


def base_of(steps: Sequence[Mapping[str, Any]], given: str | None = None) -> Base:
    """The full model: the one that is given, else the first Hub id on record, else the first bundled name there."""
    origins = [step["base_model"] for step in steps]
    revisions = {hub_id(each): each.partition("@")[2] for each in reversed(origins) if hub_id(each)}
    name = given or next((hub_id(each) for each in origins if hub_id(each)), "")
    name = name or next((each for each in origins if each in ASSETS), "")
    return Base(name, revisions.get(name, ""))


def find_licence(
    saved: Saved, folder: Path, base: Base, ask_hub: Callable[[Base], Mapping[str, Any]] | None = None
) -> Licence:
    """The licence that was stated for a model: of the converted checkpoint, in README.md beside it, or for its base.

    Args:
        saved: The files.
        folder: With README.md, if there is one.
        base: Bundled models are under the licence of their README.md.
        ask_hub: Metadata of the card of a base on the Hub; None: it is not asked.

    Raises:
        ValueError: A README.md whose head is no YAML.
    """
    source = next((part["source"] for part in saved.parts.values() if part.get("source")), None)
    if source and source["stated"]:
        return Licence({"license": source["license"]})
    # A converted checkpoint's README.md repeats what was inferred: that is no statement.
    name = source["license"] if source else ""
    if (found := _stated(_head(folder / "README.md"))) and found.get("license_name") != name:
        return Licence(found)
    if name and not name.startswith("unknown"):
        note = (
            f"The licence {name} was inferred from the file's format, not stated: find out whether it holds before "
            "you use the weights."
        )
        return Licence({"license": "other", "license_name": name}, note)
    of_base: Mapping[str, Any] = {}
    if base.name in ASSETS:
        of_base = _head(asset_path(base.name) / "README.md")
    elif base.hub_id and ask_hub is not None:
        of_base = ask_hub(base)
    if found := _stated(of_base):
        return Licence(found, f"The licence is that of {base.name}.")
    note = "The licence of the weights was not stated: find it out before you use them."
    return Licence({"license": "other", "license_name": "unknown"}, note)


def _head(file: Path) -> Mapping[str, Any]:
    """Metadata of a card; {} without one."""
    try:
        return (metadata_load(file) or {}) if file.is_file() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the head of {file} is no YAML: {error}; correct it, or state the licence.") from error


def _stated(card: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a licence; {} if the card states none."""
    found = {name: card[name] for name in _LICENCE_KEYS if isinstance(card.get(name), str)}
    unknown = found.get("license") in (None, "unknown") or (
        found["license"] == "other" and found.get("license_name", "unknown") == "unknown"
    )
    return {} if unknown else found


def metadata(facts: Facts) -> str:
    """The head as YAML."""
    saved, names = facts.saved, {step["name"] for step in facts.steps}
    library = "transformers" if saved.library == "transformers" else "diffusers"
    tags = ["hf_ganzip", library, saved.class_name]
    tags += ["pruned"] * ("prune" in names) + ["quantized"] * bool(facts.bits) + [f"{each}-bit" for each in facts.bits]
    data: dict[str, Any] = {"library_name": "hf_ganzip", "tags": tags, **facts.licence.metadata}
    task = _PIPELINES.get(saved.class_name) or _MODELS.get(saved.class_name)
    if task is None and any("z_dim" in part["config"] for part in saved.parts.values()):
        task = "unconditional-image-generation"
    if task:
        data["pipeline_tag"] = task
    if facts.base.hub_id:
        data["base_model"] = facts.base.hub_id
        if names & _TRAINED:
            data["base_model_relation"] = "finetune"
        elif facts.bits:
            data["base_model_relation"] = "quantized"
    if facts.datasets:
        data["datasets"] = list(facts.datasets)
    results = [result for report in facts.evaluations for result in _results(report, task)]
    if results:
        data |= {"model_name": facts.repo_id.rpartition("/")[2], "eval_results": results}
    return ModelCardData(**data).to_yaml()


def _results(report: Mapping[str, Any], task: str | None) -> list[EvalResult]:
    """Figures that are finite numbers, with everything that moves them."""
    conditions = report["conditions"]
    arguments: dict[str, Any] = {
        key: value for key, value in conditions.items() if isinstance(value, (str, int, float)) and value != ""
    }
    arguments |= {"versions": dict(conditions["versions"])} if conditions.get("versions") else {}
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
        for metric, name, title, value in figures(report)
        if math.isfinite(value)
    ]


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric says of itself beside its figures: whole numbers, names, switches."""
    return {name: value for name, value in values.items() if isinstance(value, (str, int)) and name not in QUALITY}
