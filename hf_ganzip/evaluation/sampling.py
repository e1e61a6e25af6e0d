# SPDX-License-Identifier: Apache-2.0
"""Images of a model for evaluation: image i depends on the model, its prompt if it has one, and ``(seed, i)`` only."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel
from torch import Tensor
from tqdm.auto import tqdm

from ..core.components import all_networks
from ..core.seeding import sample_generators
from ..images import to_uint8
from ..pipelines.gan import GANPipeline
from ..quantization.packed import computing
from .diffusion_sampling import ddim_timesteps, in_batches, labels_of, sample_diffusion


def sample_images(
    model: ModelMixin,
    num_samples: int,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 100,
    truncation_psi: float = 1.0,
    class_label: int | None = None,
    steps: int = 50,
    clip_sample: bool = False,
    compute: str | None = "dequantized",
    progress: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sample images of a GAN generator, or of a diffusion UNet by :func:`.sample_diffusion`.

    Args:
        model: Generator with a ``z_dim`` in its config, or ``UNet2DModel``.
        num_samples: Number of images.
        seed: Image i is drawn from ``(seed, i)``.
        first: Index of the first image, so that several calls, or processes, can share the work.
        batch_size: Images per forward pass; does not change the images beyond float rounding.
        truncation_psi: Of GANs; 1 = no truncation.
        class_label: One class for all images; None: image i has class ``i % num_classes``.
        steps: Of DDIM, for diffusion models; see :func:`.ddim_timesteps` for how many are taken.
        clip_sample: For diffusion models, see :func:`.sample_diffusion`.
        compute: How packed layers compute meanwhile, as for :func:`.set_compute_`; None: as they do.
        progress: Show a progress bar.

    Returns:
        Images (num_samples, C, H, W) uint8 and labels (num_samples,) int64, None for unconditional models.

    Raises:
        ValueError: ``num_samples`` < 1, the model makes no images, has no such class, or is a diffusion model, which
            has no truncation.
    """
    if isinstance(model, UNet2DModel):
        if truncation_psi != 1:
            raise ValueError(f"truncation_psi is {truncation_psi}; a diffusion model has no truncation; leave it out.")
        options: dict[str, Any] = {"steps": steps, "clip_sample": clip_sample, "class_label": class_label}
        options |= {"seed": seed, "first": first, "batch_size": batch_size, "compute": compute, "progress": progress}
        return sample_diffusion(model, num_samples, **options)
    if "z_dim" not in model.config:
        raise ValueError(
            f"sample_images: {type(model).__name__} is no GAN generator (its config has no z_dim) and no UNet2DModel. "
            "Networks that are told what to draw need their pipeline: `hf-ganzip sample FOLDER OUTPUT --prompt TEXT`."
        )
    pipeline: Any = GANPipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    labels = labels_of(model.config.num_classes, num_samples, first, class_label)

    def draw(start: int, count: int) -> Tensor:
        return pipeline(
            batch_size=count,
            class_labels=None if labels is None else labels[start : start + count],
            generator=sample_generators(seed, count, first + start, model.device),
            truncation_psi=truncation_psi,
            max_batch_size=count,
            output_type="latent",
        ).images

    with computing(model, compute):
        return in_batches(model, num_samples, batch_size, draw, progress), labels


def sampling_conditions(
    model: ModelMixin, *, truncation_psi: float = 1.0, steps: int = 50, clip_sample: bool = False
) -> dict[str, Any]:
    """What of the options of :func:`sample_images` decides the images of this model, for a report.

    Returns:
        ``truncation_psi`` of a GAN; ``steps`` (as many as are taken) and ``clip_sample`` of a diffusion model.
    """
    if isinstance(model, UNet2DModel):
        return {"steps": len(ddim_timesteps(steps, "uniform")), "clip_sample": clip_sample}
    return {"truncation_psi": truncation_psi}


def mean_image(images: Tensor) -> Tensor:
    """Mean of uint8 images (N, C, H, W) as one uint8 image (C, H, W)."""
    return images.double().mean(dim=0).round().to(torch.uint8)


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
