# SPDX-License-Identifier: Apache-2.0
"""U-GAT-IT generator: unpaired image-to-image translation with attention maps (Kim et al., ICLR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import PresetMixin, TranslationOutput
from .ugatit_layers import AdaptiveResnetBlock, InstanceLayerNorm, ResnetBlock, class_activation


class UGATITGenerator(PresetMixin, ModelMixin, ConfigMixin):
    """U-GAT-IT generator; state-dict keys follow UGATIT-pytorch.

    Args:
        resolution: Image side in pixels, a multiple of 4; the full model is bound to it.
        image_channels: 3 for RGB.
        base_channels: Width of the first layer; two halvings double it twice.
        num_blocks: Residual blocks before and after the attention.
        light: Style from channel means instead of all features: 10.6M instead of 279M parameters at 256 pixels.

    Example:
        >>> G = UGATITGenerator(resolution=16, base_channels=4, num_blocks=1)
        >>> output = G(torch.zeros(1, 3, 16, 16))
        >>> output.sample.shape, output.heatmap.shape
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 1, 4, 4]))
    """

    PRESETS = {"light-256": {"light": True}, "full-256": {"light": False}}

    @register_to_config
    def __init__(
        self,
        resolution: int = 256,
        image_channels: int = 3,
        base_channels: int = 64,
        num_blocks: int = 4,
        light: bool = True,
    ):
        super().__init__()
        if resolution % 4 or resolution < 8:
            raise ValueError(f"resolution is {resolution}; allowed are multiples of 4 from 8.")
        width = 4 * base_channels
        down = [nn.ReflectionPad2d(3), nn.Conv2d(image_channels, base_channels, 7, bias=False)]
        down += [nn.InstanceNorm2d(base_channels), nn.ReLU()]
        for channels in (base_channels, 2 * base_channels):
            down += [nn.ReflectionPad2d(1), nn.Conv2d(channels, 2 * channels, 3, stride=2, bias=False)]
            down += [nn.InstanceNorm2d(2 * channels), nn.ReLU()]
        self.DownBlock = nn.Sequential(*down, *(ResnetBlock(width) for _ in range(num_blocks)))
        self.gap_fc = nn.Linear(width, 1, bias=False)
        self.gmp_fc = nn.Linear(width, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * width, width, 1)
        style_inputs = width if light else width * (resolution // 4) ** 2
        self.FC = nn.Sequential(
            nn.Linear(style_inputs, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU()
        )
        self.gamma = nn.Linear(width, width, bias=False)
        self.beta = nn.Linear(width, width, bias=False)
        for index in range(1, num_blocks + 1):
            setattr(self, f"UpBlock1_{index}", AdaptiveResnetBlock(width))
        up = []
        for channels in (width, width // 2):
            up += [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1)]
            up += [nn.Conv2d(channels, channels // 2, 3, bias=False), InstanceLayerNorm(channels // 2), nn.ReLU()]
        up += [nn.ReflectionPad2d(3), nn.Conv2d(base_channels, image_channels, 7, bias=False), nn.Tanh()]
        self.UpBlock2 = nn.Sequential(*up)

    def forward(self, images: Tensor, return_dict: bool = True) -> TranslationOutput | tuple[Tensor, Tensor, Tensor]:
        """Translate images.

        Args:
            images: Float (B, C, H, W) in [-1, 1]; H and W as ``resolution`` for the full model, else multiples of 4.
            return_dict: False returns a plain tuple.

        Raises:
            ValueError: Wrong shape.
        """
        size, channels = self.config.resolution, self.config.image_channels
        fits = images.ndim == 4 and images.shape[1] == channels and not any(side % 4 for side in images.shape[2:])
        if not fits or not (self.config.light or tuple(images.shape[2:]) == (size, size)):
            allowed = "(batch, {0}, H, W) with multiples of 4" if self.config.light else "(batch, {0}, {1}, {1})"
            raise ValueError(f"images has shape {tuple(images.shape)}; allowed is {allowed.format(channels, size)}.")
        x = self.DownBlock(images.to(self.conv1x1.bias.dtype))  # type: ignore[union-attr]  # it has one
        x, cam_logits = class_activation(x, self.gap_fc, self.gmp_fc, self.gap_fc.weight, self.gmp_fc.weight)
        x = F.relu(self.conv1x1(x))
        heatmap = x.sum(dim=1, keepdim=True)
        style = self.FC(x.mean(dim=(2, 3)) if self.config.light else x.flatten(1))
        gamma, beta = self.gamma(style), self.beta(style)
        for index in range(1, self.config.num_blocks + 1):
            x = getattr(self, f"UpBlock1_{index}")(x, gamma, beta)
        output = TranslationOutput(sample=self.UpBlock2(x).float(), cam_logits=cam_logits, heatmap=heatmap)
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def clip_rho_(self) -> None:
        """Clip every rho to [0, 1], as after each training step."""
        for name, parameter in self.named_parameters():
            if name.endswith(".rho"):
                parameter.clamp_(0, 1)
