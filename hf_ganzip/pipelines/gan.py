# SPDX-License-Identifier: Apache-2.0
"""Sampling from generative adversarial networks with a diffusers pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from ..core.modes import evaluating
from ..models.base import RandomSource, check_sources, one_hot_labels
from .base import LocalPipeline, check_output_type


class GANPipeline(LocalPipeline):
    """Images from latents. The generator works in eval mode, whatever its mode is.

    Args:
        generator: A generator of this library.
        class_names: Names of the classes, by which they can then be asked for.

    Raises:
        ValueError: A model that is no generator of images from latents, or names that are not one per class.

    Example:
        >>> from hf_ganzip import StyleGAN2Generator
        >>> pipe = GANPipeline(StyleGAN2Generator(resolution=8, z_dim=4, w_dim=4, channels=(4, 4)))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(batch_size=2, output_type="np").images.shape
        (2, 8, 8, 3)
    """

    model_cpu_offload_seq = "generator"

    def __init__(self, generator: ModelMixin, class_names: list[str] | None = None):
        super().__init__()
        if not hasattr(generator, "draw_latents"):
            raise ValueError(
                f"GANPipeline: {type(generator).__name__} draws no latents; allowed are generators such as "
                "StyleGAN2Generator. For image-to-image networks use ImageTranslationPipeline."
            )
        self.register_modules(generator=generator)
        classes = generator.config.num_classes
        if class_names is not None and len(class_names) != classes:
            raise ValueError(f"class_names has {len(class_names)} entries; the generator has {classes} classes.")
        self.register_to_config(class_names=class_names)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | str | list[int] | list[str] | Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        generator: RandomSource = None,
        latents: Tensor | None = None,
        mixing_latents: Tensor | None = None,
        mixing_cutoff: int | None = None,
        max_batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any, ...]:
        """Sample images.

        Args:
            batch_size: Number of images (ignored with ``latents``).
            class_labels: One id or name for all, one per image, or rows (batch_size, num_classes); None: conditional
                models cycle through the classes.
            truncation_psi: 1 = no truncation. BigGAN truncates when latents are drawn, so that ``latents`` need 1.
            truncation_cutoff: StyleGANs: number of leading styles that are truncated; None means all.
            noise_mode: "random", "const" or "none".
            generator: Random source; a list of one per image, also for one image, makes each independent of the others.
            latents: z (B, z_dim) to use instead of random ones.
            mixing_latents: StyleGANs: z (B, z_dim) whose styles replace those of ``latents`` from ``mixing_cutoff`` on.
            mixing_cutoff: First style that is replaced, 1 to num_ws - 1; None: half of them.
            max_batch_size: Images per forward pass.
            output_type: "pil", "np" (B, H, W, C) in [0, 1], "pt" (B, C, H, W) in [0, 1] or "latent" (B, C, H, W) about
                [-1, 1].
            return_dict: False returns a plain tuple.

        Raises:
            ValueError: Unknown ``output_type`` or class, truncation that has no effect, or labels, latents or
                generators that do not fit the number of images.
        """
        check_output_type(output_type)
        model, device = self.generator, self._execution_device
        latents = self._latents(latents, batch_size, generator, device, truncation_psi)
        check_sources(generator, len(latents))
        labels = self._labels(class_labels, len(latents), device)
        truncation: dict[str, Any] = {"truncation_psi": truncation_psi}
        if hasattr(model, "mapping"):
            truncation["truncation_cutoff"] = truncation_cutoff
        if mixing_latents is not None:
            mixing_cutoff = self._check_mixing(mixing_latents, len(latents), mixing_cutoff)
        images = []
        with evaluating(model):
            for start in self.progress_bar(range(0, len(latents), max_batch_size)):
                part = slice(start, start + max_batch_size)
                noise: dict[str, Any] = {"noise_mode": noise_mode}
                noise["generator"] = generator[part] if isinstance(generator, list) else generator
                chosen = None if labels is None else labels[part]
                if mixing_latents is None:
                    sample = model(latents[part].to(device), chosen, **truncation, **noise).sample
                else:
                    ws, other = (
                        model.mapping(z[part].to(device), chosen, **truncation) for z in (latents, mixing_latents)
                    )
                    mixed = torch.cat([ws[:, :mixing_cutoff], other[:, mixing_cutoff:]], dim=1)
                    sample = model.synthesize(mixed, **noise)
                images.append(sample.float())
        return self._output(torch.cat(images), output_type, return_dict)

    @torch.no_grad()
    def interpolate(
        self,
        num_keyframes: int = 4,
        steps: int = 16,
        class_labels: int | str | list[int] | list[str] | Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        generator: RandomSource = None,
        latents: Tensor | None = None,
        loop: bool = True,
        max_batch_size: int = 64,
        output_type: str = "pil",
    ) -> list[Any] | np.ndarray | Tensor:
        """Frames of a walk from sample to sample, for ``diffusers.utils.export_to_gif`` or ``export_to_video``.

        StyleGANs walk in straight lines between styles, others on great circles between latents and, if they embed
        classes linearly, in straight lines between classes.

        Args:
            num_keyframes: Number of samples (ignored with ``latents``).
            steps: Frames from one sample to the next.
            class_labels: Of the samples, as in :meth:`__call__`.
            truncation_psi: 1 = no truncation; as in :meth:`__call__`.
            generator: Random source, or a list of one per sample.
            latents: z (K, z_dim) of the samples.
            loop: Return to the first.
            max_batch_size: Images per forward pass.
            output_type: As in :meth:`__call__`.

        Returns:
            ``steps`` frames for each step from sample to sample.

        Raises:
            ValueError: Fewer than two samples or one step, or as in :meth:`__call__`.
        """
        check_output_type(output_type)
        model, device = self.generator, self._execution_device
        latents = self._latents(latents, num_keyframes, generator, device, truncation_psi)
        if len(latents) < 2 or steps < 1:
            raise ValueError(
                f"interpolate: {len(latents)} samples, {steps} steps; allowed are 2 and more, 1 and more."
            )
        labels = self._labels(class_labels, len(latents), device)
        if loop:
            latents = torch.cat([latents, latents[:1]])
            labels = None if labels is None else torch.cat([labels, labels[:1]])
        share = torch.arange(steps * (len(latents) - 1), device=device) / steps
        first, t = share.long(), (share % 1)[:, None]
        if hasattr(model, "mapping"):
            with evaluating(model):
                ws = model.mapping(latents.to(device), labels, truncation_psi=truncation_psi)
            points = [ws[first].lerp(ws[first + 1], t[:, :, None])]
        else:
            points = [_on_great_circle(latents[first].to(device), latents[first + 1].to(device), t)]
            if labels is not None:
                rows: Any = one_hot_labels(labels, model.config.num_classes, len(latents), torch.float32)
                points.append(rows[first].lerp(rows[first + 1], t))
        frames = []
        with evaluating(model):
            for start in self.progress_bar(range(0, len(share), max_batch_size)):
                chunk = [point[start : start + max_batch_size] for point in points]
                if hasattr(model, "mapping"):
                    frames.append(model.synthesize(*chunk, noise_mode="const").float())
                else:
                    frames.append(model(*chunk, truncation_psi=truncation_psi, noise_mode="const").sample.float())
        return self._output(torch.cat(frames), output_type, return_dict=True).images

    def _latents(
        self, latents: Tensor | None, count: int, generator: RandomSource, device: torch.device, psi: float
    ) -> Tensor:
        """The given latents, or ``count`` drawn ones."""
        model = self.generator
        if latents is None:
            return model.draw_latents(count, generator, device, psi)
        if psi != 1 and getattr(model, "truncates_only_latents", False):
            raise ValueError(
                f"truncation_psi is {psi}, but {type(model).__name__} truncates only latents that it draws; for given "
                f"latents allowed is 1. Draw them with `generator.draw_latents({len(latents)}, truncation_psi={psi})`."
            )
        return latents

    def _output(self, images: Tensor, output_type: str, return_dict: bool) -> Any:
        self.maybe_free_model_hooks()
        if output_type != "latent":
            images = self.image_processor.postprocess(images, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_mixing(self, mixing_latents: Tensor, count: int, cutoff: int | None) -> int:
        if not hasattr(self.generator, "mapping"):
            raise ValueError(f"{type(self.generator).__name__} has no styles to mix; StyleGANs have.")
        if len(mixing_latents) != count:
            raise ValueError(f"mixing_latents has {len(mixing_latents)} rows for {count} images.")
        styles = self.generator.num_ws
        cutoff = styles // 2 if cutoff is None else cutoff
        if not 0 < cutoff < styles:
            raise ValueError(f"mixing_cutoff is {cutoff}; allowed are 1 to {styles - 1}.")
        return cutoff

    def _labels(self, class_labels: Any, count: int, device: torch.device) -> Tensor | None:
        classes = self.generator.config.num_classes
        if class_labels is None:
            return torch.arange(count, device=device) % classes if classes else None
        single = isinstance(class_labels, (int, str))
        if single or isinstance(class_labels, (list, tuple)):
            class_labels = [self._class_id(label) for label in ([class_labels] if single else class_labels)]
        labels = torch.as_tensor(class_labels, device=device)
        labels = labels.expand(count) if single or labels.ndim == 0 else labels
        if len(labels) != count:
            raise ValueError(f"class_labels has {len(labels)} entries for {count} images; give one id or {count}.")
        if labels.ndim == 1 and classes and not bool(((labels >= 0) & (labels < classes)).all()):
            raise ValueError(f"class_labels has ids outside 0 to {classes - 1}: {labels.tolist()[:10]}.")
        return labels

    def _class_id(self, label: int | str) -> int:
        if not isinstance(label, str):
            return label
        names = self.config.class_names or []
        if label not in names:
            known = ", ".join(map(repr, names[:20])) or "none, since the pipeline was made without class_names"
            raise ValueError(f"there is no class {label!r}; known names: {known}.")
        return list(names).index(label)


def _on_great_circle(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of latents (N, z_dim) with t (N, 1); keeps the lengths that normal latents have."""
    lengths = first.norm(dim=1, keepdim=True) * second.norm(dim=1, keepdim=True)
    angle = ((first * second).sum(dim=1, keepdim=True) / lengths).clamp(-1, 1).acos()
    curved = (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()
    return torch.where(angle.sin().abs() < 1e-4, first.lerp(second, t), curved)
