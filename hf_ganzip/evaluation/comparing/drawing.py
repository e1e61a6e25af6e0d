# SPDX-License-Identifier: Apache-2.0
"""Images of a side of a comparison, drawn in the same way from both."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.components import is_pipeline
from ...core.seeding import sample_generators
from ...images import pil_to_array, stack_images
from ..diffusion_sampling import labels_of
from ..sampling import sample_images, sampling_conditions
from .sides import Side, sampler_of


_OF_PLAN = ("prompt", "batch_size", "generator", "num_inference_steps", "output_type", "class_labels", "return_dict")


@dataclass(frozen=True)
class Plan:
    """How images are drawn; image i depends on (seed, i), its prompt or class, and the model.

    Args:
        seed: Of the initial noise or latents.
        prompts: Image i has prompt i modulo their number.
        class_label: One class for all; None: all in turn.
        steps: Of the sampler; None: 50 of DDIM for a UNet alone, what a pipeline takes otherwise.
        options: Of a pipeline's call; ``truncation_psi`` of a GAN; ``clip_sample`` of a UNet alone.
    """

    seed: int = 0
    prompts: tuple[str, ...] | None = None
    class_label: int | None = None
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def of_network(self) -> dict[str, Any]:
        """Options with which a network alone is sampled."""
        return dict(self.options) | ({} if self.steps is None else {"steps": self.steps})


def check_plan(side: Side, plan: Plan) -> None:
    """Raise ValueError for prompts or options that the side does not take, and for prompts that it needs."""
    kind = type(side.whole).__name__
    if is_pipeline(side.whole):
        parameters = _parameters(side.whole)
        if "generator" not in parameters:
            raise ValueError(f"compare: {kind} draws nothing from seeds; its call has no generator.")
        if ("prompt" in parameters) != (plan.prompts is not None):
            needs = "draws from text: set prompts" if plan.prompts is None else "takes no prompts: leave them out"
            raise ValueError(f"compare: {kind} {needs}.")
        if plan.prompts == ():
            raise ValueError("compare: prompts is empty; give at least one.")
        taken = parameters - set(_OF_PLAN)
    else:
        if plan.prompts is not None:
            raise ValueError(f"compare: prompts are for text-to-image pipelines; {side.name} is a {kind}.")
        if plan.steps is not None and not side.denoises:
            raise ValueError(f"compare: steps is {plan.steps}; {side.name} is a {kind}, which takes one step.")
        taken = {"clip_sample"} if side.denoises else {"truncation_psi"}
    if unknown := ", ".join(sorted(plan.options.keys() - taken)):
        raise ValueError(f"compare: {kind} has no option {unknown}; allowed are {', '.join(sorted(taken))}.")


def draw(side: Side, first: int, count: int, plan: Plan) -> Tensor:
    """Images ``first`` to ``first + count - 1``, uint8 (count, C, H, W) on the CPU; packed layers compute as set."""
    if not is_pipeline(side.whole):
        drawn = {"seed": plan.seed, "first": first, "batch_size": count, "class_label": plan.class_label}
        return sample_images(side.whole, count, progress=False, compute=None, **drawn, **plan.of_network())[0]
    pipeline, numbers = side.whole, range(first, first + count)
    call: dict[str, Any] = {"generator": sample_generators(plan.seed, count, first), "output_type": "np"}
    if plan.prompts is not None:
        call["prompt"] = [plan.prompts[i % len(plan.prompts)] for i in numbers]
    if "batch_size" in _parameters(pipeline):
        call["batch_size"] = count
    if "class_labels" in _parameters(pipeline):
        labels = labels_of(_classes(side), count, first, plan.class_label)
        call["class_labels"] = [] if labels is None else labels.tolist()
    if plan.steps is not None:
        call["num_inference_steps"] = plan.steps
    before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(disable=True)
    try:
        output = pipeline(**call, **plan.options)
    finally:
        pipeline._progress_bar_config = before
    return _pixels(side, output, count, first)


def _parameters(pipeline: Any) -> set[str]:
    return set(inspect.signature(type(pipeline).__call__).parameters) - {"self"}


def _classes(side: Side) -> int | None:
    configs = [getattr(each, "config", {}) for each in side.networks.values()]
    names = ("num_class_embeds", "num_embeds_ada_norm")
    return next((config.get(name) for config in configs for name in names if config.get(name)), None)


def _pixels(side: Side, output: Any, count: int, first: int) -> Tensor:
    images = getattr(output, "images", None)
    if images is None or len(images) != count:
        given = "no images" if images is None else f"{len(images)} images for {count} seeds"
        raise ValueError(f"compare: {side.role}: {type(side.whole).__name__} gave {given}.")
    if isinstance(images[0], Image.Image):
        return stack_images([pil_to_array(each, side.role) for each in images])
    values = torch.as_tensor(np.asarray(images)).permute(0, 3, 1, 2)
    if bad := [first + i for i in range(count) if not bool(torch.isfinite(values[i]).all())]:
        raise ValueError(
            f"compare: {side.role}: images {', '.join(map(str, bad[:5]))} are NaN or infinite though the denoiser's "
            "outputs are not; see its decoder."
        )
    return (values.float() * 255).round().clamp(0, 255).to(torch.uint8).contiguous()


def conditions_of(side: Side, plan: Plan) -> dict[str, Any]:
    """What decided the images, for the report."""
    if not is_pipeline(side.whole):
        sampler = "DDIM, eta 0, 1,000 linear betas" if side.denoises else "one pass"
        return {"sampler": sampler, **sampling_conditions(side.whole, **plan.of_network())}
    scheduler = getattr(side.whole, "scheduler", None)
    found: dict[str, Any] = {"sampler": type(scheduler).__name__}
    if scheduler is not None:
        found |= {"steps": len(scheduler.timesteps), "scheduler_config": sampler_of(scheduler)}
    return found | {"options": {name: str(value) for name, value in plan.options.items()}}
