# SPDX-License-Identifier: Apache-2.0
"""Open a model by folder or Hub id, and run a list of compression steps on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from huggingface_hub import snapshot_download

from . import models
from .pruning import PruneConfig, PruneReport, prune_
from .quantization import QuantizeConfig, quantize_
from .record import QuantizationReport
from .refine import RefineConfig, RefineReport, refine_
from .registry import lookup


Report = PruneReport | RefineReport | QuantizationReport


@dataclass(frozen=True)
class RecipeStep:
    """One kind of step: its options, and what it does."""

    config: type
    run: Callable[..., Report]


STEPS: dict[str, RecipeStep] = {
    "prune": RecipeStep(PruneConfig, prune_),
    "refine": RecipeStep(RefineConfig, refine_),
    "quantize": RecipeStep(QuantizeConfig, quantize_),
}


def load_model(model_or_id: str | Path, **kwargs: Any) -> ModelMixin:
    """Load a model of hf_ganzip or diffusers by the class named in its ``config.json``.

    Args:
        model_or_id: Folder with ``config.json`` and safetensors, or Hub id.
        **kwargs: For the class's ``from_pretrained`` (``torch_dtype``, ``quantization_config``, ...).

    Raises:
        FileNotFoundError: The folder has no ``config.json``.
        ValueError: ``config.json`` is damaged or names a class that neither library has.
    """
    import diffusers

    folder = Path(model_or_id)
    if not folder.is_dir():
        revision = kwargs.pop("revision", None)
        folder = Path(
            snapshot_download(str(model_or_id), revision=revision, allow_patterns=["*.json", "*.safetensors"])
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; a model folder is one that save_pretrained wrote.")
    try:
        class_name = json.loads(config_file.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file} is not the config of a model: {error!r}.") from error
    cls = getattr(models, class_name, None) or getattr(diffusers, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, ModelMixin)):
        raise ValueError(f"{config_file} names the class {class_name!r}, which neither hf_ganzip nor diffusers has.")
    model: ModelMixin = cls.from_pretrained(folder, **kwargs)  # type: ignore[no-untyped-call]
    return model


def read_recipe(path: str | Path) -> list[dict[str, Any]]:
    """Steps of a YAML file: a list, or a mapping with a list ``steps``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no such list.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    steps = found.get("steps") if isinstance(found, dict) else found
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "step" in step for step in steps):
        raise ValueError(f"{path} is no recipe: a list of steps, each with `step:` and options.")
    return steps


def compress(
    model_or_id: ModelMixin | str | Path, recipe: Sequence[Mapping[str, Any]]
) -> tuple[ModelMixin, list[Report]]:
    """Run the steps of a recipe, one after the other.

    Args:
        model_or_id: A model (changed in place), a folder or a Hub id.
        recipe: Steps, each ``{"step": NAME, **options}``: "prune" with options of PruneConfig, "refine" with options of RefineConfig, "quantize" with those of QuantizeConfig.

    Returns:
        The model and one report per step.

    Raises:
        ValueError: An empty recipe, an unknown step or a wrong option; nothing is changed then.
    """
    if not recipe:
        raise ValueError("compress: the recipe has no steps; allowed are " + ", ".join(sorted(STEPS)) + ".")
    steps = []
    for entry in recipe:
        options = dict(entry)
        step = lookup(STEPS, options.pop("step", None) or "", "step")
        try:
            steps.append((step, step.config(**options)))
        except TypeError as error:
            raise ValueError(f"compress: {entry.get('step')}: {error}") from error
    model = model_or_id if isinstance(model_or_id, ModelMixin) else load_model(model_or_id)
    return model, [step.run(model, config) for step, config in steps]
