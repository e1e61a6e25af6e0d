# SPDX-License-Identifier: Apache-2.0
"""Second fully connected layer of VGG-16: the features of the paper's precision and recall."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.extras import needed_by
from .weights import downloading, imagenet_input, read_weights, rgb, weights_digest


class VGG16Extractor:
    """Second fully connected layer (fc2) of torchvision's VGG-16 for ImageNet, after its ReLU.

    Args:
        source: File of weights with torchvision's names (.safetensors or .pth); None downloads ``IMAGENET1K_V1``.
        device: Where the network runs; images are moved there.

    Raises:
        ImportError: torchvision is missing.
        ConnectionError: The weights cannot be downloaded.
        ValueError: The weights are not those of a VGG-16.

    Source:
        Mordido et al., section 4.1; Kynkaanniemi et al., section 3.
    """

    name = "vgg16"
    dim = 4096
    resize = "grey repeated to RGB; antialiased bilinear to 224x224; ImageNet mean and deviation"

    def __init__(self, source: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        with needed_by("The vgg16 extractor needs torchvision", "features"):
            from torchvision.models import VGG16_Weights, vgg16
        if source is None:
            with downloading("vgg16"):
                network = vgg16(weights=VGG16_Weights.IMAGENET1K_V1, progress=True)
        else:
            with torch.device("meta"):
                network = vgg16()
            try:
                network.load_state_dict(read_weights(source), assign=True)
            except RuntimeError as error:
                raise ValueError(f"{source} has not the weights of torchvision's vgg16: {error}") from error
        network.classifier = nn.Sequential(*list(network.classifier)[:5])  # ends after fc2 and its ReLU
        self.network = network.eval().requires_grad_(False).to(device)
        self.device, self.digest = torch.device(device), weights_digest(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (B, 1 or 3, H, W) to features float32 (B, 4096)."""
        return self.network(imagenet_input(rgb(images, self.name), 224, self.device))
