# SPDX-License-Identifier: Apache-2.0
"""Sampling from generative adversarial networks with a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from huggingface_hub import snapshot_download


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")


class GANPipeline(DiffusionPipeline):
    """Images from latents.

    Args:
        generator: A generator with ``generator(z, class_labels, truncation_psi=, noise_mode=, generator=)``.

    Example:
        >>> from hf_ganzip import StyleGAN2Generator
        >>> pipe = GANPipeline(StyleGAN2Generator(resolution=8, z_dim=4, w_dim=4, channels=(4, 4)))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(batch_size=2, output_type="np").images.shape
        (2, 8, 8, 3)
    """

    model_cpu_offload_seq = "generator"

    def __init__(self, generator: ModelMixin):
        super().__init__()
        self.register_modules(generator=generator)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load from a folder or the Hub.

        diffusers finds classes of other libraries only in local folders, so a Hub id is downloaded first.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.is_dir():
            options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
            patterns = ["*.json", "*.safetensors", "*.md"]
            path = snapshot_download(str(pretrained_model_name_or_path), allow_patterns=patterns, **options)
        return super().from_pretrained(path, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | list[int] | torch.Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        noise_mode: str = "random",
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        max_batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Sample images.

        Args:
            batch_size: Number of images (ignored with ``latents``).
            class_labels: One id for all, ids (batch_size,), or None; conditional models then cycle through the classes.
            truncation_psi: 1 = no truncation.
            noise_mode: "random", "const" or "none".
            generator: Random source; a list of one per image makes each image independent of the others.
            latents: z (B, z_dim) to use instead of random ones.
            max_batch_size: Images per forward pass.
            output_type: "pil", "np" (B, H, W, C) in [0, 1], "pt" (B, C, H, W) in [0, 1] or "latent" (B, C, H, W) about [-1, 1].
            return_dict: False returns a plain tuple.

        Raises:
            ValueError: Unknown ``output_type``, or labels or generators that do not fit the number of images.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; allowed are {', '.join(OUTPUT_TYPES)}.")
        model, device = self.generator, self._execution_device
        if latents is None:
            latents = model.draw_latents(batch_size, generator, device, truncation_psi)
        labels = self._labels(class_labels, len(latents), device)
        images = []
        for start in self.progress_bar(range(0, len(latents), max_batch_size)):
            part = slice(start, start + max_batch_size)
            sample = model(
                latents[part].to(device),
                None if labels is None else labels[part],
                truncation_psi=truncation_psi,
                noise_mode=noise_mode,
                generator=generator[part] if isinstance(generator, list) else generator,
            ).sample
            images.append(sample.float())
        self.maybe_free_model_hooks()
        result = torch.cat(images)
        if output_type != "latent":
            result = self.image_processor.postprocess(result, output_type=output_type)
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _labels(self, class_labels, count: int, device) -> torch.Tensor | None:
        classes = self.generator.config.num_classes
        if class_labels is None:
            return torch.arange(count, device=device) % classes if classes else None
        labels = torch.as_tensor(class_labels, device=device)
        labels = labels.expand(count) if labels.ndim == 0 else labels
        if len(labels) != count:
            raise ValueError(f"class_labels has {len(labels)} entries for {count} images; give one id or {count}.")
        return labels
