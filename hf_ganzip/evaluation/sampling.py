# SPDX-License-Identifier: Apache-2.0
"""Images of a model for evaluation: image i depends on the model and ``(seed, i)`` only."""

from __future__ import annotations

import torch
from diffusers import ModelMixin, UNet2DModel
from torch import Tensor
from tqdm.auto import tqdm

from ..pipelines.gan import GANPipeline
from ..seeding import sample_generators
from ..training.data import to_uint8
from .diffusion_sampling import sample_diffusion


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
    progress: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Sample images of a GAN generator, or of a diffusion UNet by :func:`.sample_diffusion`.

    Args:
        model: Generator with a ``z_dim`` in its config, or ``UNet2DModel``.
        num_samples: Number of images.
        seed: Image i is drawn from ``(seed, i)``.
        first: Index of the first image, so that several calls, or processes, can share the work.
        batch_size: Images per forward pass; does not change the images beyond float rounding.
        truncation_psi: 1 = no truncation.
        class_label: One class for all images; None: image i has class ``i % num_classes``.
        steps: Of DDIM, for diffusion models.
        clip_sample: For diffusion models, see :func:`.sample_diffusion`.
        progress: Show a progress bar.

    Returns:
        Images (num_samples, C, H, W) uint8 and labels (num_samples,) int64, None for unconditional models.

    Raises:
        ValueError: ``num_samples`` < 1, or the model makes no images.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; allowed are 1 and more.")
    if isinstance(model, UNet2DModel):
        options = {
            "first": first,
            "batch_size": batch_size,
            "steps": steps,
            "clip_sample": clip_sample,
            "progress": progress,
        }
        return sample_diffusion(model, num_samples, seed=seed, **options)
    if "z_dim" not in model.config:
        raise ValueError(
            f"sample_images: {type(model).__name__} is no GAN generator (its config has no z_dim) and no UNet2DModel."
        )
    pipeline = GANPipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    classes = model.config.num_classes
    labels = torch.arange(first, first + num_samples) % classes if classes else None
    if class_label is not None:
        if not 0 <= class_label < classes:
            raise ValueError(f"class_label is {class_label}; the model has {classes} classes.")
        labels = torch.full((num_samples,), class_label)
    images = []
    was_training = model.training
    model.eval()
    with tqdm(total=num_samples, desc="sample", unit="image", disable=not progress) as bar:
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
    model.train(was_training)
    return torch.cat(images), labels


def mean_image(images: Tensor) -> Tensor:
    """Mean of uint8 images (N, C, H, W) as one uint8 image (C, H, W)."""
    return images.double().mean(dim=0).round().to(torch.uint8)
