# SPDX-License-Identifier: Apache-2.0
"""Image-to-image translation with a diffusers pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput

from ..core.modes import evaluating
from ..quantization.packed import computing
from .base import LocalPipeline, check_output_type


_FACTOR = 4  # sides must be multiples of it


@dataclass
class ImageTranslationOutput(BaseOutput):
    """Translated images, and where the network looked.

    Args:
        images: As ``output_type`` says.
        heatmaps: In the same form and size, one channel, each scaled to [0, 1].
        cam_logits: (B, 2) of the auxiliary classifiers.
    """

    images: Any
    heatmaps: Any
    cam_logits: torch.Tensor


class ImageTranslationPipeline(LocalPipeline):
    """Translate images from one domain to another.

    Args:
        generator: A :class:`.UGATITGenerator`. Packed layers compute with unpacked weights during a call.

    Raises:
        ValueError: A generator of images from latents.

    Example:
        >>> from hf_ganzip import UGATITGenerator
        >>> pipe = ImageTranslationPipeline(UGATITGenerator(resolution=16, base_channels=4, num_blocks=1))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> output = pipe(torch.rand(2, 3, 16, 16), output_type="np")
        >>> output.images.shape, output.heatmaps.shape
        ((2, 16, 16, 3), (2, 16, 16, 1))
    """

    model_cpu_offload_seq = "generator"

    def __init__(self, generator: ModelMixin):
        super().__init__()
        if hasattr(generator, "draw_latents"):
            raise ValueError(
                f"ImageTranslationPipeline: {type(generator).__name__} makes images of latents; allowed are "
                "image-to-image networks such as UGATITGenerator. For the others use GANPipeline."
            )
        self.register_modules(generator=generator)
        self.image_processor = VaeImageProcessor(vae_scale_factor=_FACTOR, do_convert_rgb=True)

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        max_batch_size: int = 8,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImageTranslationOutput | tuple[Any, ...]:
        """Translate.

        Args:
            image: A PIL image, a list of them, or a batch: numpy (B, H, W, C) or torch (B, C, H, W) in [0, 1].
            height: Size that images are resized to; None: ``resolution`` of the generator.
            width: As ``height``.
            max_batch_size: Images per forward pass.
            output_type: "pil", "np", "pt" (both in [0, 1]) or "latent" (images about [-1, 1]).
            return_dict: False returns a plain tuple.

        Raises:
            ValueError: Unknown ``output_type``, or a size that the generator does not take.
        """
        check_output_type(output_type)
        model, device = self.generator, self._execution_device
        height, width = height or model.config.resolution, width or model.config.resolution
        inputs = self.image_processor.preprocess(image, height=height, width=width).float()
        outputs = []
        with evaluating(model), computing(model, "dequantized"):
            for start in self.progress_bar(range(0, len(inputs), max_batch_size)):
                outputs.append(model(inputs[start : start + max_batch_size].to(device)))
        self.maybe_free_model_hooks()
        images, logits, maps = (
            torch.cat([output[key].float() for output in outputs]) for key in ("sample", "cam_logits", "heatmap")
        )
        low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
        maps = F.interpolate((maps - low) / (high - low).clamp_min(1e-12), size=images.shape[2:], mode="bilinear")
        if output_type != "latent":
            images, maps = (
                self.image_processor.postprocess(x, output_type=output_type, do_denormalize=[denormalize] * len(x))
                for x, denormalize in ((images, True), (maps, False))
            )
        output = ImageTranslationOutput(images=images, heatmaps=maps, cam_logits=logits)
        return output if return_dict else output.to_tuple()
