# SPDX-License-Identifier: Apache-2.0
"""Images of a model for evaluation: image i depends on the model and ``(seed, i)`` only."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin, UNet2DModel
from torch import Tensor
from tqdm.auto import tqdm

from ..core.modes import evaluating
from ..core.seeding import sample_generators
from ..images import to_uint8
from ..pipelines.gan import GANPipeline
from ..quantization.packed import computing
from .diffusion_sampling import ddim_timesteps, labels_of, sample_diffusion


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
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; allowed are 1 and more.")
    if isinstance(model, UNet2DModel):
        if truncation_psi != 1:
            raise ValueError(f"truncation_psi is {truncation_psi}; a diffusion model has no truncation; leave it out.")
        return sample_diffusion(
            model,
            num_samples,
            seed=seed,
            first=first,
            batch_size=batch_size,
            steps=steps,
            clip_sample=clip_sample,
            class_label=class_label,
            compute=compute,
            progress=progress,
        )
    if "z_dim" not in model.config:
        raise ValueError(
            f"sample_images: {type(model).__name__} is no GAN generator (its config has no z_dim) and no UNet2DModel. "
            "Networks that are told what to draw need their pipeline: `hf-ganzip sample FOLDER OUTPUT --prompt TEXT`."
        )
    pipeline = GANPipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    labels = labels_of(model.config.num_classes, num_samples, first, class_label)
    images = []
    bar = tqdm(total=num_samples, desc="sample", unit="image", disable=not progress)
    with evaluating(model), computing(model, compute), bar:
        for start in range(0, num_samples, batch_size):
            count = min(batch_size, num_samples - start)
            sample = pipeline(
                batch_size=count,
                class_labels=None if labels is None else labels[start : start + count],
                generator=sample_generators(seed, count, first + start, model.device),
                truncation_psi=truncation_psi,
                max_batch_size=count,
                output_type="latent",
            ).images
            images.append(to_uint8(sample).cpu())
            bar.update(count)
    return torch.cat(images), labels


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
