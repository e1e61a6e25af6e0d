# SPDX-License-Identifier: Apache-2.0
"""Content masks of faces, from a semantic segmentation model of the Hub."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.hub import unreachable


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
        try:
            from transformers import AutoModelForSemanticSegmentation
        except ImportError as error:
            raise ImportError("A face parser needs transformers: pip install 'hf_ganzip[transformers]'.") from error
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
