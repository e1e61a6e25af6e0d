# SPDX-License-Identifier: Apache-2.0
"""Content-aware pruning (CAGAN, Liu et al., CVPR 2021): how much a channel matters for the content of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...core.extras import needed_by
from ...core.hub import unreachable
from ...core.modes import evaluating, only_gradients_of
from ..channels import ChannelSet
from .base import Scores, latents, reader_scores, reader_weights


@dataclass(frozen=True)
class ContentAware:
    """Gradient of the change by salt-and-pepper noise on the content, of the weight that reads the channel.

    Args:
        mask: Function of images (B, C, H, W) about [-1, 1] -> masks (B, 1, H, W), True on content; or the Hub id or
            folder of a face parser (:class:`.FaceParser`); None: everywhere.
        samples: Latents in all, rounded down to whole batches, at least one.
        batch_size: Latents at a time.
        noise: Share of content pixels that become black or white.
        seed: Of everything random.
        progress: Show a progress bar.
    """

    mask: Callable[[Tensor], Tensor] | str | None = None
    samples: int = 400
    batch_size: int = 8
    noise: float = 0.05
    seed: int = 0
    progress: bool = field(default=True, metadata={"recorded": False})

    def __call__(self, model: nn.Module, sets: Sequence[ChannelSet]) -> Scores:
        if not hasattr(model, "draw_latents"):
            raise ValueError(f"content_aware needs a generator with latents; {type(model).__name__} has none.")
        mask = FaceParser(self.mask) if isinstance(self.mask, str) else self.mask
        generator = torch.Generator().manual_seed(self.seed)
        weights = reader_weights(model, sets)
        sums = [torch.zeros(channels.width) for channels in sets]
        with evaluating(model), only_gradients_of(weights, model):
            batches = range(max(1, self.samples // self.batch_size))
            for _ in tqdm(batches, "content_aware", unit="batch", disable=not self.progress):
                z, labels = latents(model, self.batch_size, generator)
                images = model(z, labels, generator=generator).sample
                loss = (self._disturbed(images, mask, generator) - images).abs().mean()
                for total, score in zip(sums, reader_scores(loss, weights)):
                    total += score.cpu()
        return {channels.name: total for channels, total in zip(sets, sums)}

    def _disturbed(
        self, images: Tensor, mask: Callable[[Tensor], Tensor] | None, generator: torch.Generator
    ) -> Tensor:
        """Images whose content pixels are black or white with probability ``noise``; the others keep their gradient."""
        batch, _, height, width = images.shape
        content = torch.ones(batch, 1, height, width, dtype=torch.bool, device=images.device)
        if mask is not None:
            content = mask(images.detach()).to(images.device).bool().expand(batch, 1, height, width)
        extreme = torch.randint(2, (1, 1, height, width), generator=generator).to(images) * 2 - 1
        hit = content & (torch.rand(batch, 1, height, width, generator=generator) < self.noise).to(images.device)
        return torch.where(hit, extreme, images)


_SIZE = 512  # pixels that the parser sees
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB
_NO_CONTENT = {"background", "cloth", "clothes", "clothing"}
_NO_CONTENT_IDS = (0, 16)  # background and clothes in CelebAMask-HQ's order, for models whose labels have no names


class FaceParser:
    """Masks of everything but background and clothes.

    Args:
        model_id: Hub id or folder of a transformers segmentation model, for example ``jonathandinu/face-parsing``.

    Raises:
        ImportError: transformers is not installed.
    """

    def __init__(self, model_id: str):
        with needed_by("A face parser needs transformers", "transformers"):
            from transformers import AutoModelForSemanticSegmentation
        where = {} if Path(model_id).is_dir() else {"local_files_only": bool(unreachable())}
        self.model = AutoModelForSemanticSegmentation.from_pretrained(model_id, **where).eval()
        names = {int(index): name.lower() for index, name in self.model.config.id2label.items()}
        named = {index for index, name in names.items() if name in _NO_CONTENT}
        self.no_content = torch.tensor(sorted(named or set(_NO_CONTENT_IDS)))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Masks (B, 1, H, W), True on content, of images (B, 3, H, W) in [-1, 1]."""
        size = images.shape[-2:]
        pixels = (images.expand(-1, 3, -1, -1).clamp(-1, 1) + 1) / 2
        pixels = torch.nn.functional.interpolate(pixels, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        mean, std = pixels.new_tensor(_MEAN)[:, None, None], pixels.new_tensor(_STD)[:, None, None]
        logits = self.model.to(pixels.device)((pixels - mean) / std).logits
        labels = torch.nn.functional.interpolate(logits, size, mode="bilinear").argmax(dim=1, keepdim=True)
        return ~torch.isin(labels, self.no_content.to(labels.device))
