# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN3 generator, configurations T and R.

Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from .base import RandomSource, RecomputingModule, check_noise_mode
from .stylegan3_layers import Band, FourierInput, SynthesisLayer, bands, layer_widths
from .stylegan_base import MappingNetwork, StyleGeneratorMixin, at_least_float32, compute_dtype


class SynthesisNetwork(RecomputingModule):
    """Styles ws (B, num_ws, w_dim) to images (B, C, H, W) float32."""

    def __init__(
        self,
        found: list[Band],
        channels: Sequence[int],
        frequencies: int,
        image_channels: int,
        w_dim: int,
        num_critical: int,
        output_scale: float,
        radial: bool,
        **layer: Any,
    ):
        super().__init__()
        self.bands, self.output_scale = found, output_scale
        last = len(found) - 1
        first = found[0]
        self.input = FourierInput(w_dim, channels[0], frequencies, first.size, first.sampling_rate, first.cutoff)
        self.layer_names = []
        for index, after in enumerate(found):
            out_channels = image_channels if index == last else channels[index + 1]
            module = SynthesisLayer(
                channels[index],
                out_channels,
                w_dim,
                found[max(index - 1, 0)],
                after,
                is_image=index == last,
                radial=radial and index < last - num_critical,
                **layer | ({"kernel_size": 1} if index == last else {}),
            )
            self.layer_names.append(f"L{index}_{after.size}_{out_channels}")
            setattr(self, self.layer_names[-1], module)
        self.num_ws = len(found) + 1

    def forward(self, ws: Tensor, dtype: torch.dtype, update_magnitude: bool = False) -> Tensor:
        w = ws.unbind(dim=1)
        x = self.input(w[0]).to(dtype)
        for name, style in zip(self.layer_names, w[1:]):
            layer = getattr(self, name)
            if update_magnitude:
                layer.update_magnitude_(x)
            x = self.run(layer, x, style)
        return at_least_float32(x) * self.output_scale


class StyleGAN3Generator(StyleGeneratorMixin, ModelMixin, ConfigMixin):
    """StyleGAN3 generator; state-dict keys follow the official checkpoints (``synthesis.L0_36_512.weight``, ...).

    Args:
        resolution: Image side in pixels, a power of two.
        image_channels: 3 for RGB, 1 for grey images.
        z_dim: Dimension of the latent z.
        w_dim: Dimension of the style w.
        num_classes: 0 for unconditional models.
        mapping_layers: Fully connected layers of the mapping network.
        channels: Input width of each of the num_layers + 1 layers. Pruned generators are ordinary configs. None: the
            official widths for ``channel_base`` and ``channel_max``, then written into the config.
        channel_base: Used only if ``channels`` is None.
        channel_max: Used only if ``channels`` is None.
        num_frequencies: Fourier features; None: as many as the first width, then written into the config.
        num_layers: Layers before the image output.
        num_critical: Critically sampled layers at the end.
        first_cutoff: Cutoff of the first layer in cycles.
        first_stopband: Its minimum stopband.
        last_stopband_rel: Minimum stopband of the last layer relative to its cutoff.
        margin_size: Pixels beyond the image on every side.
        output_scale: Factor of the image.
        kernel_size: 3 for T, 1 for R.
        radial_filters: Radially symmetric downsampling filters (R).
        filter_size: Taps per unit of sampling rate.
        lrelu_upsampling: Oversampling of the nonlinearity.
        conv_clamp: Clamp of layer outputs, or None.
        magnitude_ema_beta: Decay of the running input magnitudes.
        w_avg_beta: Decay of the running mean of w, updated by forwards in training mode.

    Example:
        >>> G = StyleGAN3Generator(resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, num_layers=4)
        >>> G(torch.randn(2, 8)).sample.shape
        torch.Size([2, 3, 16, 16])
    """

    PRESETS = {
        "t": {"resolution": 1024},
        "r": {
            "resolution": 1024,
            "channel_base": 65536,
            "channel_max": 1024,
            "kernel_size": 1,
            "radial_filters": True,
        },
        "ffhq-256-t": {"resolution": 256, "channel_base": 16384},
    }
    discriminator_phase = {"update_magnitude": True}
    _supports_gradient_checkpointing = True
    _no_split_modules = ["SynthesisLayer"]
    _repeated_blocks = ["SynthesisLayer"]
    _keep_in_fp32_modules = ["mapping", "input"]

    @register_to_config
    def __init__(
        self,
        resolution: int = 256,
        image_channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        num_classes: int = 0,
        mapping_layers: int = 2,
        channels: tuple[int, ...] | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_frequencies: int | None = None,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        kernel_size: int = 3,
        radial_filters: bool = False,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
        w_avg_beta: float = 0.998,
    ):
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"resolution is {resolution}; allowed are powers of two from 8.")
        if not 1 <= num_critical < num_layers:
            raise ValueError(f"num_critical is {num_critical}; allowed are 1 to {num_layers - 1}.")
        found = bands(
            resolution, num_layers, num_critical, first_cutoff, first_stopband, last_stopband_rel, margin_size
        )
        if channels is None:
            channels = layer_widths(found, channel_base, channel_max)
            self.register_to_config(channels=channels)
        if len(channels) != num_layers + 1:
            raise ValueError(f"channels has {len(channels)} entries; num_layers {num_layers} needs {num_layers + 1}.")
        if num_frequencies is None:
            num_frequencies = channels[0]
            self.register_to_config(num_frequencies=num_frequencies)
        self.synthesis = SynthesisNetwork(
            found,
            channels,
            num_frequencies,
            image_channels,
            w_dim,
            num_critical,
            output_scale,
            radial_filters,
            kernel_size=kernel_size,
            filter_size=filter_size,
            lrelu_upsampling=lrelu_upsampling,
            conv_clamp=conv_clamp,
            magnitude_ema_beta=magnitude_ema_beta,
        )
        self.mapping = MappingNetwork(
            z_dim, num_classes, w_dim, mapping_layers, num_ws=self.synthesis.num_ws, w_avg_beta=w_avg_beta
        )

    def synthesize(
        self,
        ws: Tensor,
        *,
        noise_mode: str = "random",
        generator: RandomSource = None,
        update_magnitude: bool = False,
    ) -> Tensor:
        """Styles ws (B, num_ws, w_dim) to float32 images (B, C, H, W).

        Args:
            ws: Styles.
            noise_mode: Not used: the network has no noise inputs.
            generator: Not used.
            update_magnitude: Move the running input magnitudes, as the discriminator phase of training does.
        """
        check_noise_mode(noise_mode)
        dtype = compute_dtype(getattr(self.synthesis, self.synthesis.layer_names[0]).bias, ws.device)
        return self.synthesis(ws, dtype, update_magnitude)
