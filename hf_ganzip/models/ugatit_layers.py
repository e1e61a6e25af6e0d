# SPDX-License-Identifier: Apache-2.0
"""Layers of U-GAT-IT (Kim et al., ICLR 2020): norms between instance and layer statistics, class activation maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    var, mean = torch.var_mean(x, dim=dims, keepdim=True)  # unbiased, as in the published PyTorch code
    return (x - mean) * (var + eps).rsqrt()


class AdaptiveInstanceLayerNorm(nn.Module):
    """rho * instance norm + (1 - rho) * layer norm of x (B, C, H, W), times gamma plus beta (B, C); rho by channel."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        mixed = self.mixed(x)
        return torch.addcmul(beta[:, :, None, None], mixed, gamma[:, :, None, None])

    def mixed(self, x: Tensor) -> Tensor:
        """Without gamma and beta."""
        return _standardized(x, (1, 2, 3), self.eps).lerp(_standardized(x, (2, 3), self.eps), self.rho)


class InstanceLayerNorm(AdaptiveInstanceLayerNorm):
    """As above with learned ``gamma`` and ``beta`` per channel; starts as layer norm."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(channels, eps)
        nn.init.zeros_(self.rho)
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # gamma and beta are its own
        return torch.addcmul(self.beta, self.mixed(x), self.gamma)


class ResnetBlock(nn.Module):
    """Two reflection-padded convolutions with instance norm, plus the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class AdaptiveResnetBlock(nn.Module):
    """As above with :class:`AdaptiveInstanceLayerNorm`."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm1 = AdaptiveInstanceLayerNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm2 = AdaptiveInstanceLayerNorm(channels)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        found = F.relu(self.norm1(self.conv1(_reflected(x)), gamma, beta))
        return x + self.norm2(self.conv2(_reflected(found)), gamma, beta)


def _reflected(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


class NormalizedClassifier(nn.Module):
    """Linear layer (C to 1) with spectral norm whose *un-normalized* weight also weighs the channels.

    The published discriminator multiplies features with the stored weight and classifies with the normalized one; both
    are kept. Keys are those of ``torch.nn.utils.spectral_norm``.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(1, channels))
        nn.init.kaiming_uniform_(self.weight_orig, a=5**0.5)
        self.register_buffer("weight_u", F.normalize(torch.randn(1), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(channels), dim=0, eps=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_orig
        if self.training:
            with torch.no_grad():
                self.weight_v.copy_(F.normalize(weight.T @ self.weight_u, dim=0, eps=1e-12))
                self.weight_u.copy_(F.normalize(weight @ self.weight_v, dim=0, eps=1e-12))
        sigma = self.weight_u.clone() @ weight @ self.weight_v.clone()
        return F.linear(x, weight / sigma)


def class_activation(
    x: Tensor, average: nn.Module, maximum: nn.Module, average_weight: Tensor, maximum_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Features weighted by how they speak for a domain (Zhou et al., CAM).

    Args:
        x: (B, C, H, W).
        average: Classifier of the spatial mean, (B, C) to (B, 1).
        maximum: Classifier of the spatial maximum.
        average_weight: (1, C).
        maximum_weight: (1, C).

    Returns:
        Weighted features (B, 2C, H, W) and logits (B, 2).
    """
    logits = torch.cat([average(x.mean(dim=(2, 3))), maximum(x.amax(dim=(2, 3)))], dim=1)
    weighted = torch.cat([x * average_weight[:, :, None, None], x * maximum_weight[:, :, None, None]], dim=1)
    return weighted, logits
