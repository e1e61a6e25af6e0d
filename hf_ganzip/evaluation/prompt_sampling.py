# SPDX-License-Identifier: Apache-2.0
"""Images of text-to-image pipelines: image i depends on the pipeline, its prompt and ``(seed, i)`` only."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..core.components import all_networks
from ..core.seeding import sample_generators
from ..images import to_uint8
from ..quantization.packed import computing


def takes_prompts(pipeline: type) -> bool:
    """Whether pipelines of a class draw what a prompt says; not those that change an image by it."""
    parameters = inspect.signature(pipeline.__call__).parameters
    return "prompt" in parameters and "strength" not in parameters


def sample_prompts(
    pipeline: Any,
    prompts: Sequence[str],
    num_samples: int,
    *,
    seed: int = 0,
    batch_size: int = 1,
    steps: int | None = None,
    guidance_scale: float | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Sample images of a text-to-image pipeline of diffusers.

    Args:
        pipeline: The pipeline. Packed layers compute with unpacked weights meanwhile.
        prompts: Texts; image i is of ``prompts[i % len(prompts)]``.
        num_samples: Number of images.
        seed: Image i is drawn from ``(seed, i)``.
        batch_size: Images per call of the pipeline.
        steps: Of its scheduler; None: the pipeline's own.
        guidance_scale: Of classifier-free guidance; None: the pipeline's own.
        progress: Show a progress bar.

    Returns:
        Images (num_samples, 3, H, W) uint8 and the index of the prompt of each (num_samples,) int64.

    Raises:
        ValueError: ``num_samples`` < 1, no prompts, or an option that the pipeline has not.
    """
    if num_samples < 1 or not prompts:
        raise ValueError(f"num_samples is {num_samples}, with {len(prompts)} prompts; allowed are 1 and more of both.")
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    options = {name: value for name, value in options.items() if value is not None}
    if unknown := [name for name in options if name not in inspect.signature(pipeline.__call__).parameters]:
        raise ValueError(f"{type(pipeline).__name__} has no {' and no '.join(unknown)}; leave it out.")
    pipeline.set_progress_bar_config(disable=True)
    chosen = torch.arange(num_samples) % len(prompts)
    images = []
    with contextlib.ExitStack() as stack, tqdm(total=num_samples, desc="sample", disable=not progress) as bar:
        for network in all_networks(pipeline).values():
            stack.enter_context(computing(network, "dequantized"))
        for part in chosen.split(batch_size):
            texts = [prompts[index] for index in part.tolist()]
            sources = sample_generators(seed, len(part), bar.n)
            found = pipeline(prompt=texts, generator=sources, output_type="np", **options).images
            images.append(to_uint8(torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1))
            bar.update(len(part))
    return torch.cat(images), chosen
