# SPDX-License-Identifier: Apache-2.0
"""A list of compression steps, run on a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from .core.components import network_of
from .core.registry import lookup
from .core.shipped import recipes
from .images import to_model_range
from .integration.opening import load_model
from .pruning import PruneConfig, PruneReport, prune_
from .pruning.criteria import CRITERIA
from .quantization import QuantizeConfig, quantize_
from .quantization.report import QuantizeReport
from .refine import RefineConfig, RefineReport, refine_


Report = PruneReport | RefineReport | QuantizeReport


@dataclass(frozen=True)
class RecipeStep:
    """One kind of step: its options, and what it does."""

    config: type
    run: Callable[..., Any]


STEPS: dict[str, RecipeStep] = {
    "prune": RecipeStep(PruneConfig, prune_),
    "refine": RecipeStep(RefineConfig, refine_),
    "quantize": RecipeStep(QuantizeConfig, quantize_),
}


def read_recipe(path: str | Path) -> list[dict[str, Any]]:
    """Steps of a YAML file, or of a bundled recipe by name: a list, or a mapping with a list ``steps``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no such list; a name that is neither a file nor bundled.

    Example:
        >>> [step["step"] for step in read_recipe("svs-stylegan2")]
        ['prune', 'refine']
    """
    import yaml

    file = Path(path)
    if file.name == str(file) and not (file.suffix or file.exists()):
        file = Path(lookup(recipes(), str(file), "recipe"))
    if not file.is_file():
        raise FileNotFoundError(f"recipe is {file}; there is no such file.")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from error
    steps = found.get("steps") if isinstance(found, dict) else found
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "step" in step for step in steps):
        raise ValueError(f"{file} is no recipe: a list of steps, each with `step:` and options.")
    return steps


def steps_of(recipe: Sequence[Mapping[str, Any]]) -> list[tuple[RecipeStep, Any]]:
    """The steps of a recipe, each with its config.

    Raises:
        ValueError: An empty recipe, an unknown step or a wrong option.
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
    return steps


def compress(model_or_id: Any, recipe: Sequence[Mapping[str, Any]]) -> tuple[Any, list[Report]]:
    """Run the steps of a recipe, one after the other.

    Args:
        model_or_id: A model, or a pipeline, whose denoiser is meant (changed in place), or a name as for
            :func:`load_model`.
        recipe: Steps, each ``{"step": NAME, **options}``: "prune" with options of PruneConfig, "refine" with options
            of RefineConfig, "quantize" with those of QuantizeConfig.

    Returns:
        The model or pipeline and one report per step.

    Raises:
        ValueError: An empty recipe, an unknown step or a wrong option; nothing is changed then.
    """
    steps = steps_of(recipe)
    model = load_model(model_or_id) if isinstance(model_or_id, (str, Path)) else model_or_id
    network = network_of(model)
    steps = [
        (step, with_images(config, network) if isinstance(config, PruneConfig) else config) for step, config in steps
    ]
    return model, [step.run(network, config) for step, config in steps]


def with_images(config: PruneConfig, model: ModelMixin) -> PruneConfig:
    """Open the images of a criterion that are given by name, in the size and with the channels of a diffusion UNet.

    Args:
        config: Its ``criterion_options["images"]`` may be a source as for :func:`.evaluate`, of which a `datasets` id
            gives its training images; ``num_images`` of them are drawn with ``seed``.
        model: The model to be pruned.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: The source holds no images, or others than the model takes, or the model takes none.
    """
    name = config.criterion_options.get("images")
    criterion = lookup(CRITERIA, config.criterion, "criterion")
    if not isinstance(name, (str, Path)) or not hasattr(criterion, "num_images"):
        return config
    from .evaluation.sources import open_source

    if "sample_size" not in model.config or "in_channels" not in model.config:
        raise ValueError(
            f"prune: images are for criteria of diffusion UNets; a {type(model).__name__} has no sample_size and "
            "in_channels in its config."
        )
    found = open_source(name, split="train").images
    if found is None:
        raise ValueError(f"prune: {name} holds no images; a criterion cannot score with it.")
    count, seed = (config.criterion_options.get(each, getattr(criterion, each)) for each in ("num_images", "seed"))
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count]
    images, channels = to_model_range(found[drawn]), model.config["in_channels"]
    if images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    size = model.config["sample_size"]
    height_width = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[-2:]) != height_width:
        images = torch.nn.functional.interpolate(images, height_width, mode="bilinear", antialias=True)
    return dataclasses.replace(
        config, criterion_options=dict(config.criterion_options) | {"images": images.contiguous()}
    )
