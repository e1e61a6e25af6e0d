# SPDX-License-Identifier: Apache-2.0
"""Small convolutional classifier whose penultimate layer serves as the feature space of metrics on small images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from .base import NamedMixin, check_images


@dataclass
class FeatureNetworkOutput(BaseOutput):
    """Output of :class:`FeatureNetwork`.

    Args:
        logits: Class scores (B, num_classes).
        embedding: Features of the penultimate layer (B, embedding_dim), >= 0.
    """

    logits: Tensor
    embedding: Tensor


class FeatureNetwork(NamedMixin, ModelMixin, ConfigMixin):
    """Classifier of small images: per entry of ``channels`` a 3x3 convolution, batch norm, ReLU and 2x2 max pooling,
    then one hidden layer (the embedding) and one output layer.

    Args:
        image_size: Side in pixels, a multiple of 2 ** len(channels).
        image_channels: 1 for grey images, 3 for RGB.
        num_classes: Number of classes.
        channels: One width per convolution.
        embedding_dim: Dimension of the embedding.

    Raises:
        ValueError: ``image_size`` is no multiple of 2 ** len(channels).

    Example:
        >>> network = FeatureNetwork(channels=(4, 8), embedding_dim=16).eval()
        >>> output = network(torch.zeros(2, 1, 32, 32))
        >>> output.logits.shape, output.embedding.shape
        (torch.Size([2, 10]), torch.Size([2, 16]))
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 32,
        image_channels: int = 1,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 64, 96),
        embedding_dim: int = 128,
    ):
        super().__init__()
        shrink = 2 ** len(channels)
        if image_size < shrink or image_size % shrink:
            raise ValueError(
                f"image_size is {image_size}; allowed with {len(channels)} channels entries are multiples of {shrink}."
            )
        layers: list[nn.Module] = []
        width = image_channels
        for out_width in channels:
            layers += [
                nn.Conv2d(width, out_width, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            width = out_width
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(width * (image_size // shrink) ** 2, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(embedding_dim, num_classes)

    def forward(self, images: Tensor, return_dict: bool = True) -> FeatureNetworkOutput | tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            images: Float (B, image_channels, image_size, image_size) in [-1, 1].
            return_dict: False returns the plain tuple (logits, embedding).

        Returns:
            ``.logits`` (B, num_classes) and ``.embedding`` (B, embedding_dim), the latter after its ReLU.

        Raises:
            ValueError: Wrong image shape.
        """
        check_images(images, self.config.image_channels, self.config.image_size)
        x = images.to(self.classifier.bias.dtype).contiguous(memory_format=torch.channels_last)
        embedding = self.hidden(self.features(x).flatten(1))
        logits = self.classifier(embedding)
        return FeatureNetworkOutput(logits=logits, embedding=embedding) if return_dict else (logits, embedding)
