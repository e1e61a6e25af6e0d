# SPDX-License-Identifier: Apache-2.0
"""What StyleGAN, StyleGAN2 and StyleGAN3 share: widths, fully connected layers, the mapping network, calling.

Weights are stored unscaled (equalized learning rate: the layer multiplies them by a constant gain at run time) and
under the names of the official checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from .base import (
    GeneratorMixin,
    GeneratorOutput,
    RandomSource,
    check_latents,
    check_noise_mode,
    check_sources,
    one_hot_labels,
)


ACTIVATION_GAINS = {"linear": 1.0, "lrelu": math.sqrt(2)}
STYLEGAN2_PRESETS = {
    "ffhq-256-base": {"resolution": 256, "channel_base": 32768},
    "ffhq-256-small": {"resolution": 256, "channel_base": 16384},
    "ffhq-1024": {"resolution": 1024, "channel_base": 32768},
}


def channel_widths(resolution: int, channel_base: int = 16384, channel_max: int = 512) -> tuple[int, ...]:
    """Official widths per resolution 4, 8, ..., ``resolution``: min(channel_base / resolution, channel_max).

    Example:
        >>> channel_widths(32, channel_base=512, channel_max=24)
        (24, 24, 24, 16)
    """
    return tuple(min(channel_base // 2**i, channel_max) for i in range(2, int(math.log2(resolution)) + 1))


def resolutions(resolution: int, channels: Sequence[Any]) -> list[int]:
    """Block resolutions 4..``resolution``, checked against the number of widths.

    Raises:
        ValueError: ``resolution`` is not a power of two >= 4 or ``channels`` has another length.
    """
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution is {resolution}; allowed are powers of two from 4.")
    blocks = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
    if len(channels) != len(blocks):
        raise ValueError(
            f"channels has {len(channels)} entries; resolution {resolution} needs one for each of {blocks}."
        )
    return blocks


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of ``x`` (B, C) to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def activate(x: Tensor, activation: str, clamp: float | None = None) -> Tensor:
    """Leaky ReLU 0.2 or identity, then clamp; overwrites ``x`` where no gradient is recorded.

    The gain of the activation is the caller's: before it, with weights and bias, or after it, lrelu(g * x) = g *
    lrelu(x), g > 0.
    """
    inplace = not torch.is_grad_enabled()
    if activation == "lrelu":
        x = F.leaky_relu(x, 0.2, inplace=inplace)
    if clamp is not None:
        x = F.hardtanh(x, -clamp, clamp, inplace=inplace)  # the gradient of clamp takes five passes
    return x


def noise_for(x: Tensor, stored: Tensor, noise_mode: str, generator: RandomSource) -> Tensor:
    """The ``stored`` noise (H, W), or in mode "random" new noise (B, 1, H, W) float32, for features x (B, C, H, W)."""
    if noise_mode != "random":
        return stored
    return randn_tensor((x.shape[0], 1, *stored.shape), generator=generator, device=x.device, dtype=torch.float32)


class FullyConnectedLayer(nn.Linear):
    """Linear layer with equalized learning rate: effective weight = ``weight * lr_multiplier / sqrt(in_features)``.

    Input (B, in_features), output (B, out_features) in the dtype of ``x``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__(in_features, out_features)
        self.activation = activation
        self.bias_gain = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        nn.init.normal_(self.weight, std=1 / lr_multiplier)
        nn.init.constant_(self.bias, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight.to(x.dtype) * self.weight_gain, self.bias.to(x.dtype) * self.bias_gain)
        return activate(x, self.activation) * ACTIVATION_GAINS[self.activation]


class MappingNetwork(nn.Module):
    """z (B, z_dim) and optional class labels to styles.

    With ``num_ws`` the result is repeated to ws (B, num_ws, w_dim) and its running mean ``w_avg`` is kept for
    truncation; without it (class projection of discriminators) the result is w (B, w_dim). ``z_dim=0`` maps labels
    only. Always computes in the dtype of its parameters (float32 in mixed precision).

    Raises:
        ValueError: No layers.
    """

    fc0: FullyConnectedLayer
    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        num_classes: int,
        w_dim: int,
        num_layers: int,
        *,
        num_ws: int | None = None,
        w_avg_beta: float = 0.995,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"mapping_layers is {num_layers}; allowed are 1 and more.")
        self.z_dim, self.num_classes, self.num_layers = z_dim, num_classes, num_layers
        self.num_ws, self.w_avg_beta = num_ws, w_avg_beta
        if num_classes:
            self.embed = FullyConnectedLayer(num_classes, w_dim)
        features = [z_dim + (w_dim if num_classes else 0)] + [w_dim] * num_layers
        for i in range(num_layers):
            layer = FullyConnectedLayer(features[i], features[i + 1], activation="lrelu", lr_multiplier=0.01)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Map latents to styles.

        Args:
            z: (B, z_dim), standard normal; None if ``z_dim`` is 0.
            class_labels: Ids (B,) int64 or one-hot rows (B, num_classes).
            truncation_psi: Interpolation from the mean style (0) to the full style (1).
            truncation_cutoff: Number of leading styles that are truncated; None means all.

        Returns:
            ws (B, num_ws, w_dim), or w (B, w_dim) without ``num_ws``.

        Raises:
            ValueError: ``z`` or ``class_labels`` has a wrong shape, labels are missing or superfluous, or the cutoff is
                negative.
        """
        if truncation_cutoff is not None and truncation_cutoff < 0:
            raise ValueError(
                f"truncation_cutoff is {truncation_cutoff}; allowed are 0 and more, and None for all styles."
            )
        w = self._map(z, class_labels)
        if self.num_ws is None:
            return w
        if self.training:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)

    def _map(self, z: Tensor | None, class_labels: Tensor | None) -> Tensor:
        bias = self.fc0.bias
        given = z if z is not None else class_labels
        inputs, batch = [], 0 if given is None else given.shape[0]
        if self.z_dim:
            check_latents(z, self.z_dim)  # type: ignore[arg-type]  # given wherever z_dim is not 0
            inputs.append(normalize_second_moment(z.to(bias.dtype)))  # type: ignore[union-attr]
        labels = one_hot_labels(class_labels, self.num_classes, batch, bias.dtype)
        with torch.autocast(bias.device.type, enabled=False):
            if labels is not None:
                inputs.append(normalize_second_moment(self.embed(labels)))
            x = torch.cat(inputs, dim=1)
            for i in range(self.num_layers):
                x = getattr(self, f"fc{i}")(x)
        return x


class StyleGeneratorMixin(GeneratorMixin):
    """A generator of a ``mapping`` network, z to styles, and a ``synthesis`` network, styles to images."""

    mapping: MappingNetwork
    synthesis: Any

    @property
    def num_ws(self) -> int:
        """Number of style inputs of the synthesis network."""
        return self.synthesis.num_ws

    def synthesize(self, ws: Tensor, *, noise_mode: str = "random", generator: RandomSource = None) -> Tensor:
        """Styles ws (B, num_ws, w_dim) to float32 images (B, C, H, W); options as in :meth:`forward`."""
        check_noise_mode(noise_mode)
        check_sources(generator, ws.shape[0])
        dtype = compute_dtype(self.synthesis.b4.const, ws.device)
        return self.synthesis(ws.to(dtype), dtype, noise_mode, generator)

    def forward(
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        generator: RandomSource = None,
        return_dict: bool = True,
        **options: Any,
    ) -> GeneratorOutput | tuple[Tensor]:
        """Generate images.

        Args:
            z: Latents (B, z_dim), standard normal.
            class_labels: Ids (B,) int64 or one-hot rows (B, num_classes) for conditional models.
            truncation_psi: 1 = no truncation.
            truncation_cutoff: Number of leading styles that are truncated; None means all.
            noise_mode: "random" (new noise each call), "const" (the stored noise) or "none"; StyleGAN3 has no noise
                inputs.
            generator: Source of the random noise; a list of B generators makes sample i independent of the batch.
            return_dict: False returns a plain tuple.
            **options: Further ones of :meth:`synthesize` (``update_magnitude`` of StyleGAN3).

        Returns:
            ``.sample`` float32 (B, C, H, W), about [-1, 1].

        Raises:
            ValueError: An argument has a wrong shape, length or value.
        """
        ws = self.mapping(z, class_labels, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        image = self.synthesize(ws, noise_mode=noise_mode, generator=generator, **options)
        return GeneratorOutput(sample=image) if return_dict else (image,)


def compute_dtype(stored: Tensor, device: torch.device) -> torch.dtype:
    """The dtype of autocast where it is enabled on the device, else that of a stored tensor."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else stored.dtype
