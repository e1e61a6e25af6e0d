# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT discriminators: patches with an auxiliary classifier; a local one (5 layers) and a global one (7)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalized

from .base import DiscriminatorMixin, DiscriminatorOutput, one_hot_labels
from .ugatit_layers import NormalizedClassifier, class_activation


class UGATITDiscriminator(DiscriminatorMixin, ModelMixin, ConfigMixin):
    """U-GAT-IT discriminator; state-dict keys follow UGATIT-pytorch, except for those of spectral norms.

    Args:
        image_channels: 3 for RGB.
        base_channels: Width of the first layer.
        num_layers: 7 for the global, 5 for the local discriminator.
        spectral_norm: False: ordinary convolutions, for weights that are already divided.
        feature_quantizers: Written by :func:`.add_feature_quantizers`.

    Example:
        >>> import torch
        >>> D = UGATITDiscriminator(base_channels=4, num_layers=5)
        >>> D(torch.zeros(1, 3, 64, 64)).logits.shape
        torch.Size([1, 1, 6, 6])
    """

    PRESETS = {"global": {"num_layers": 7}, "local": {"num_layers": 5}}

    @register_to_config
    def __init__(
        self,
        image_channels: int = 3,
        base_channels: int = 64,
        num_layers: int = 7,
        spectral_norm: bool = True,
        feature_quantizers: dict[str, Any] | None = None,
    ):
        super().__init__()
        if num_layers < 4:
            raise ValueError(f"num_layers is {num_layers}; allowed are 4 and more.")
        norm = normalized if spectral_norm else nn.Identity()
        layers: list[nn.Module] = []
        before, width = image_channels, base_channels
        for index in range(num_layers - 1):
            stride = 1 if index == num_layers - 2 else 2
            layers += [nn.ReflectionPad2d(1), norm(nn.Conv2d(before, width, 4, stride=stride))]
            layers += [nn.LeakyReLU(0.2)]
            before, width = width, 2 * width
        self.model = nn.Sequential(*layers)
        self.gap_fc = NormalizedClassifier(before)
        self.gmp_fc = NormalizedClassifier(before)
        self.conv1x1 = nn.Conv2d(2 * before, before, 1)
        self.conv = norm(nn.Conv2d(before, 1, 4, bias=False))
        self.restore_feature_quantizers(feature_quantizers)

    def score(self, images: Tensor, class_labels: Tensor | None) -> DiscriminatorOutput:
        dtype = self.conv1x1.bias.dtype  # type: ignore[union-attr]  # it has one
        one_hot_labels(class_labels, 0, images.shape[0], dtype)  # refuses any
        x = self.model(images.to(dtype))
        x, cam_logits = class_activation(x, self.gap_fc, self.gmp_fc, self.gap_fc.weight_orig, self.gmp_fc.weight_orig)
        x = F.leaky_relu(self.conv1x1(x), 0.2)
        heatmap = x.sum(dim=1, keepdim=True)
        logits = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        return DiscriminatorOutput(logits=logits, cam_logits=cam_logits, heatmap=heatmap)
