# SPDX-License-Identifier: Apache-2.0
"""Blocks of BigGAN (Brock et al., 2019, appendix B), under the names of the official checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import GeneratorMixin, GeneratorOutput, RandomSource, check_latents, check_noise_mode
from .spectral_norm import ClassEmbedding, SNConv2d, SNLinear


INITS = ("ortho", "N02", "xavier")


class ClassGeneratorMixin(GeneratorMixin):
    """A generator of classes without noise inputs."""

    def forward(
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        noise_mode: str = "random",
        generator: RandomSource = None,
        return_dict: bool = True,
    ) -> GeneratorOutput | tuple[Tensor]:
        """Generate images.

        Args:
            z: Latents (B, z_dim) as from :meth:`draw_latents` with the same ``truncation_psi``.
            class_labels: Ids (B,) int64 or rows (B, num_classes): one-hot, or weights that interpolate embeddings.
            truncation_psi: Chooses the batch statistics of BigGAN-deep, in (0, 1]; BigGAN does not use it, see ``z``.
            noise_mode: Not used: the network has no noise inputs.
            generator: Not used.
            return_dict: False returns a plain tuple.

        Returns:
            ``.sample`` float32 (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: ``z``, ``class_labels`` or ``truncation_psi`` is not allowed.
        """
        check_latents(z, self.config.z_dim)
        check_noise_mode(noise_mode)
        image = torch.tanh(self.raw_images(z, class_labels, truncation_psi).float())
        return GeneratorOutput(sample=image) if return_dict else (image,)

    def raw_images(self, z: Tensor, class_labels: Tensor | None, truncation_psi: float) -> Tensor:
        """Images before the hyperbolic tangent."""
        raise NotImplementedError


class StatisticsNorm(nn.Module):
    """Batch norm without affine, with the buffers ``stored_mean`` and ``stored_var`` (C,)."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def normalize(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Normalized x (B, C, H, W) times ``scale`` plus ``shift``, (C,) or (B, C) each."""
        if self.training:
            x = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, True, self.momentum, self.eps)
        else:
            wide = torch.promote_types(self.stored_var.dtype, torch.float32)
            factor = (self.stored_var.to(wide) + self.eps).rsqrt()
            shift = shift - self.stored_mean.to(wide) * factor * scale
            scale = factor * scale
        return torch.addcmul(shift.to(x.dtype)[..., None, None], x, scale.to(x.dtype)[..., None, None])


class ConditionalBatchNorm(StatisticsNorm):
    """Batch norm with gain 1 + gain(y) and bias(y), y (B, condition_dim) or, without sharing, (B, num_classes)."""

    def __init__(self, channels: int, condition_dim: int, shared: bool, eps: float, sn_eps: float | None):
        super().__init__(channels, eps)
        embed = functools.partial(SNLinear, bias=False, sn_eps=sn_eps) if shared else ClassEmbedding
        self.gain: nn.Module = embed(condition_dim, channels)
        self.bias: nn.Module = embed(condition_dim, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.normalize(x, 1 + self.gain(condition), self.bias(condition))


class OutputBatchNorm(StatisticsNorm):
    """Batch norm with learned ``gain`` and ``bias`` (C,)."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(channels, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(x, self.gain, self.bias)


class SelfAttention(nn.Module):
    """Attention of every position to the 2 x 2 max-pooled positions, x + gamma * o(attention) (Zhang et al., SAGAN)."""

    def __init__(self, channels: int, sn_eps: float | None):
        super().__init__()
        self.theta = SNConv2d(channels, channels // 8, 1, bias=False, sn_eps=sn_eps)
        self.phi = SNConv2d(channels, channels // 8, 1, bias=False, sn_eps=sn_eps)
        self.g = SNConv2d(channels, channels // 2, 1, bias=False, sn_eps=sn_eps)
        self.o = SNConv2d(channels // 2, channels, 1, bias=False, sn_eps=sn_eps)
        self.gamma = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return x + self.gamma * self.o(pooled_attention(self.theta(x), self.phi(x), self.g(x)))


def pooled_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Unscaled dot-product attention over 2 x 2 max-pooled keys and values, all (B, ., H, W)."""
    q, k, v = (x.flatten(2).transpose(1, 2) for x in (queries, F.max_pool2d(keys, 2), F.max_pool2d(values, 2)))
    if torch.compiler.is_exporting():  # ONNX's attention has heads
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]
    else:
        found = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # (B, H * W, C)
    return found.transpose(1, 2).reshape(values.shape[0], -1, *queries.shape[2:])


class GeneratorBlock(nn.Module):
    """(B, in, H, W) and a condition to (B, out, 2H, 2W)."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        condition_dim: int,
        shared: bool,
        bn_eps: float,
        sn_eps: float | None,
    ):
        super().__init__()
        self.conv1 = SNConv2d(in_channels, hidden, 3, sn_eps=sn_eps)
        self.conv2 = SNConv2d(hidden, out_channels, 3, sn_eps=sn_eps)
        self.conv_sc = SNConv2d(in_channels, out_channels, 1, sn_eps=sn_eps)
        self.bn1 = ConditionalBatchNorm(in_channels, condition_dim, shared, bn_eps, sn_eps)
        self.bn2 = ConditionalBatchNorm(hidden, condition_dim, shared, bn_eps, sn_eps)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shortcut = self.conv_sc(x)  # 1 x 1: the same before and after nearest upsampling
        x = F.relu(self.bn1(x, condition))
        x = self.conv1(F.interpolate(x, scale_factor=2))
        x = self.conv2(F.relu(self.bn2(x, condition)))
        return x + F.interpolate(shortcut, scale_factor=2)


class DiscriminatorBlock(nn.Module):
    """(B, in, H, W) to (B, out, H/2, W/2), or the same size; the first block starts from the image."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, first: bool, downsample: bool, sn_eps: float | None
    ):
        super().__init__()
        self.first, self.downsample = first, downsample
        self.conv1 = SNConv2d(in_channels, hidden, 3, sn_eps=sn_eps)
        self.conv2 = SNConv2d(hidden, out_channels, 3, sn_eps=sn_eps)
        if downsample or in_channels != out_channels:
            self.conv_sc = SNConv2d(in_channels, out_channels, 1, sn_eps=sn_eps)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.avg_pool2d(x, 2) if self.downsample else x  # commutes with a 1 x 1 convolution
        if hasattr(self, "conv_sc"):
            shortcut = self.conv_sc(shortcut)
        x = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return shortcut + (F.avg_pool2d(x, 2) if self.downsample else x)


def official_widths(multipliers: Mapping[int, tuple[int, ...]], resolution: int, base: int) -> tuple[int, ...]:
    """Widths of a network of Brock et al. (tables 3-6): its multipliers times ``base``.

    Raises:
        ValueError: The paper has no network of that resolution.
    """
    if resolution not in multipliers:
        raise ValueError(
            f"resolution is {resolution}; official widths exist for {', '.join(map(str, multipliers))}. "
            "Give `channels` for another."
        )
    return tuple(base * factor for factor in multipliers[resolution])


def initialize_(model: nn.Module, init: str) -> None:
    """Orthogonal ("ortho"), N(0, .02) ("N02") or Xavier uniform ("xavier") weights; biases keep their defaults.

    Raises:
        ValueError: Another name.
    """
    if init not in INITS:
        raise ValueError(f"init is {init!r}; allowed are {', '.join(INITS)}.")
    fill: Callable[[Tensor], Any] = {
        "ortho": nn.init.orthogonal_,
        "N02": lambda weight: nn.init.normal_(weight, std=0.02),
        "xavier": nn.init.xavier_uniform_,
    }[init]
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)) and not module.weight.is_meta:
            fill(module.weight)
