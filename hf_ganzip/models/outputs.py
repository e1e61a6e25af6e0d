# SPDX-License-Identifier: Apache-2.0
"""What generators, translation networks and discriminators return."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from torch import Tensor


@dataclass
class GeneratorOutput(BaseOutput):
    """Images of a generator.

    Args:
        sample: Float images (B, C, H, W), about [-1, 1].
    """

    sample: Tensor


@dataclass
class TranslationOutput(BaseOutput):
    """Output of a translation network.

    Args:
        sample: Images (B, C, H, W) float32 in [-1, 1].
        cam_logits: (B, 2): how the auxiliary classifiers of mean and maximum tell the source domain.
        heatmap: (B, 1, H / 4, W / 4): where the network looks; not normalized.
    """

    sample: Tensor
    cam_logits: Tensor
    heatmap: Tensor


@dataclass
class DiscriminatorOutput(BaseOutput):
    """Output of a discriminator.

    Args:
        logits: Realness scores (B, 1), or (B, 1, H, W) for patches; higher means more real.
        class_logits: (B, num_classes) of an auxiliary classifier, or None.
        twin_logits: (B, num_classes) of the twin classifier of TAC-GAN, or None.
        cam_logits: (B, 2) of the auxiliary classifiers of U-GAT-IT, or None.
        heatmap: (B, 1, H, W), where U-GAT-IT's discriminator looks, or None.
        quantization_loss: (B,) of feature quantizers, or None.
    """

    logits: Tensor
    class_logits: Tensor | None = None
    twin_logits: Tensor | None = None
    cam_logits: Tensor | None = None
    heatmap: Tensor | None = None
    quantization_loss: Tensor | None = None
