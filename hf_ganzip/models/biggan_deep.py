# SPDX-License-Identifier: Apache-2.0
"""BigGAN-deep generator (Brock et al., 2019, appendix B) with the statistics of DeepMind's released weights.

Keys follow pytorch-pretrained-biggan, with spectral norms folded into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .base import RandomSource, RecomputingModule, check_sources, one_hot_labels
from .biggan_layers import ClassGeneratorMixin, pooled_attention


INTERPOLATIONS = ("official", "corrected")
_LIMIT = 2.0  # of the truncated normal distribution, in standard deviations


def statistics_weights(truncation: float, count: int, interpolation: str) -> list[tuple[int, float]]:
    """Rows of the stored statistics (for truncation 0, 1 / (count - 1), ..., 1) and their weights.

    Args:
        truncation: In (0, 1].
        count: Number of rows.
        interpolation: "corrected" interpolates linearly. "official" repeats the published code: between two rows it
            swaps their weights, and rounding of ``truncation / step`` sends some grid values, like .14, to a
            neighbour's row.

    Raises:
        ValueError: ``truncation`` or ``interpolation`` is not allowed.

    Example:
        >>> statistics_weights(0.4, 51, "official"), statistics_weights(0.14, 51, "corrected")
        ([(20, 1.0)], [(7, 1.0)])
    """
    if not 0 < truncation <= 1:
        raise ValueError(f"truncation_psi is {truncation}; allowed is 0 < truncation_psi <= 1.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}; allowed are {', '.join(INTERPOLATIONS)}.")
    step = 1.0 / (count - 1)
    if interpolation == "official":
        fraction, whole = math.modf(truncation / step)
        row = int(whole)
        after = min(row + 1, count - 1)  # rounding may place truncation 1 beyond the last row
        return [(row, 1.0)] if fraction == 0 else [(row, fraction), (after, 1 - fraction)]
    fraction, whole = math.modf(round(truncation / step, 9))
    row = int(whole)
    return [(row, 1.0)] if fraction == 0 else [(row, 1 - fraction), (row + 1, fraction)]


class TruncationNorm(nn.Module):
    """Batch norm whose mean and variance depend on the truncation: rows ``running_means``, ``running_vars`` (n, C)."""

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, condition_dim: int | None, n_stats: int, eps: float):
        super().__init__()
        self.eps = eps
        self.register_buffer("running_means", torch.zeros(n_stats, channels))
        self.register_buffer("running_vars", torch.ones(n_stats, channels))
        if condition_dim is None:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.scale = nn.Linear(condition_dim, channels, bias=False)
            self.offset = nn.Linear(condition_dim, channels, bias=False)

    def forward(self, x: Tensor, rows: list[tuple[int, float]], condition: Tensor | None = None) -> Tensor:
        wide = torch.promote_types(self.running_vars.dtype, torch.float32)
        mean: Any = sum(self.running_means[row].to(wide) * weight for row, weight in rows)
        var: Any = sum(self.running_vars[row].to(wide) * weight for row, weight in rows)
        factor = (var + self.eps).rsqrt()
        scale: Tensor
        shift: Tensor
        if condition is None:
            scale, shift = self.weight, self.bias
        else:
            scale, shift = 1 + self.scale(condition), self.offset(condition)
        scale = scale * factor
        shift = shift - mean * scale
        return torch.addcmul(shift.to(x.dtype)[..., None, None], x, scale.to(x.dtype)[..., None, None])


class BottleneckBlock(nn.Module):
    """(B, in, H, W) and a condition to (B, out, H', W'), H' = 2H if ``upsample``; shortcuts keep the first channels."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        upsample: bool,
        condition_dim: int,
        n_stats: int,
        eps: float,
    ):
        super().__init__()
        self.out_channels, self.upsample = out_channels, upsample
        self.bn_0 = TruncationNorm(in_channels, condition_dim, n_stats, eps)
        self.conv_0 = nn.Conv2d(in_channels, hidden, 1)
        self.bn_1 = TruncationNorm(hidden, condition_dim, n_stats, eps)
        self.conv_1 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.bn_2 = TruncationNorm(hidden, condition_dim, n_stats, eps)
        self.conv_2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.bn_3 = TruncationNorm(hidden, condition_dim, n_stats, eps)
        self.conv_3 = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor, rows: list[tuple[int, float]]) -> Tensor:
        shortcut = x[:, : self.out_channels]
        x = self.conv_0(F.relu(self.bn_0(x, rows, condition)))
        x = F.relu(self.bn_1(x, rows, condition))
        if self.upsample:
            x, shortcut = F.interpolate(x, scale_factor=2), F.interpolate(shortcut, scale_factor=2)
        x = self.conv_1(x)
        x = self.conv_2(F.relu(self.bn_2(x, rows, condition)))
        return shortcut + self.conv_3(F.relu(self.bn_3(x, rows, condition)))


class SelfAttention(nn.Module):
    """Attention to 2 x 2 max-pooled positions, x + gamma * o(attention)."""

    def __init__(self, channels: int):
        super().__init__()
        self.snconv1x1_theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, condition: Tensor, rows: list[tuple[int, float]]) -> Tensor:
        found = pooled_attention(self.snconv1x1_theta(x), self.snconv1x1_phi(x), self.snconv1x1_g(x))
        return x + self.gamma * self.snconv1x1_o_conv(found)


class _Network(RecomputingModule):
    """Everything but the class embedding (``generator.*`` of the checkpoints)."""

    def __init__(
        self,
        condition_dim: int,
        bottom: int,
        blocks: Sequence[tuple[int, int]],
        upsample: Sequence[bool],
        attention_before: int,
        image_channels: int,
        n_stats: int,
        eps: float,
    ):
        super().__init__()
        self.gen_z = nn.Linear(condition_dim, 16 * bottom)
        self.layers = nn.ModuleList()
        for index, (hidden, out) in enumerate(blocks):
            if index == attention_before:
                self.layers.append(SelfAttention(bottom))
            hidden = hidden or bottom // 4
            self.layers.append(BottleneckBlock(bottom, hidden, out, upsample[index], condition_dim, n_stats, eps))
            bottom = out
        self.bn = TruncationNorm(bottom, None, n_stats, eps)
        self.conv_to_rgb = nn.Conv2d(bottom, image_channels, 3, padding=1)

    def forward(self, condition: Tensor, rows: list[tuple[int, float]]) -> Tensor:
        x = self.gen_z(condition).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # channels last in memory
        for layer in self.layers:
            x = self.run(layer, x, condition, rows)
        return self.conv_to_rgb(F.relu(self.bn(x, rows)))


def _imagenet(widths: tuple[int, ...], upsample: str, attention_before: int) -> dict[str, Any]:
    return {
        "channels": tuple(128 * width for width in widths),
        "upsample": tuple(letter == "T" for letter in upsample),
        "attention_before": attention_before,
    }


class BigGANDeepGenerator(ClassGeneratorMixin, ModelMixin, ConfigMixin):
    """BigGAN-deep generator.

    Args:
        image_channels: 3 for RGB.
        z_dim: Dimension of the latent z and of the class embedding.
        num_classes: Number of classes.
        channels: Width of the 4 x 4 features, then for every block its output width (its hidden width is a quarter of
            its input's), or a pair (hidden, output).
        upsample: Whether each block doubles the size.
        attention_before: Index of the block that attention precedes; -1: none.
        n_stats: Rows of stored batch statistics, for truncation 0 to 1.
        eps: Of the norms.
        interpolation: "official" or "corrected", see :func:`statistics_weights`.

    Example:
        >>> blocks = {"channels": (16, 16, 8), "upsample": (False, True), "attention_before": -1}
        >>> G = BigGANDeepGenerator(z_dim=4, num_classes=3, **blocks)
        >>> G(torch.randn(2, 4), torch.tensor([0, 2])).sample.shape
        torch.Size([2, 3, 8, 8])
    """

    PRESETS = {
        "imagenet-128": _imagenet((16, 16, 16, 16, 8, 8, 4, 4, 2, 2, 1), "FTFTFTFTFT", 8),
        "imagenet-256": _imagenet((16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1), "FTFTFTFTFTFT", 8),
        "imagenet-512": _imagenet((16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1, 1, 1), "FTFTFTFTFTFTFT", 8),
    }
    _supports_gradient_checkpointing = True
    _no_split_modules = ["BottleneckBlock"]
    _repeated_blocks = ["BottleneckBlock"]

    @register_to_config
    def __init__(
        self,
        image_channels: int = 3,
        z_dim: int = 128,
        num_classes: int = 1000,
        channels: tuple[Any, ...] = PRESETS["imagenet-128"]["channels"],
        upsample: tuple[bool, ...] = PRESETS["imagenet-128"]["upsample"],
        attention_before: int = 8,
        n_stats: int = 51,
        eps: float = 1e-4,
        interpolation: str = "official",
    ):
        super().__init__()
        statistics_weights(1.0, n_stats, interpolation)
        blocks = [(0, entry) if isinstance(entry, int) else tuple(entry) for entry in channels[1:]]
        if len(blocks) != len(upsample):
            raise ValueError(f"upsample has {len(upsample)} entries for {len(blocks)} blocks.")
        widths = [channels[0], *(out for _, out in blocks)]
        if any(out > before for before, out in zip(widths, widths[1:])):
            raise ValueError(
                f"widths are {widths}; allowed are widths that do not grow: shortcuts keep the first channels."
            )
        self.embeddings = nn.Linear(num_classes, z_dim, bias=False)
        self.generator = _Network(
            2 * z_dim, channels[0], blocks, upsample, attention_before, image_channels, n_stats, eps
        )

    def draw_latents(
        self, count: int, generator: RandomSource = None, device: Any = None, truncation_psi: float = 1.0
    ) -> Tensor:
        """Latents z (count, z_dim): ``truncation_psi`` times a normal distribution cut at two standard deviations."""
        check_sources(generator, count)
        sources, rows = (generator, 1) if isinstance(generator, list) else ([generator], count)
        uniform = [
            torch.rand(rows, self.config.z_dim, generator=g, device=g.device if g is not None else None)
            for g in sources
        ]
        share = math.erf(_LIMIT / math.sqrt(2))
        return torch.cat(uniform).to(device).mul(2).sub(1).mul(share).erfinv().mul(math.sqrt(2) * truncation_psi)

    def raw_images(self, z: Tensor, class_labels: Tensor | None, truncation_psi: float) -> Tensor:
        dtype = self.generator.gen_z.bias.dtype
        rows = one_hot_labels(class_labels, self.config.num_classes, z.shape[0], dtype)
        statistics = statistics_weights(truncation_psi, self.config.n_stats, self.config.interpolation)
        return self.generator(torch.cat([z.to(dtype), self.embeddings(rows)], dim=1), statistics)
