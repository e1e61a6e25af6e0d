# SPDX-License-Identifier: Apache-2.0
"""StyleGAN3 generator, configurations T and R (Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .generator import GeneratorMixin, RandomSource, check_noise_mode
from .outputs import GeneratorOutput
from .stylegan2_layers import FullyConnectedLayer, MappingNetwork, at_least_float32
from .stylegan3_filters import FilteredActivation, lowpass_filter


_TINY = 1e-12  # of mean squares: filters may be zero, after quantization to few bits for example


@dataclass(frozen=True)
class Band:
    """Signal after one layer: side and sampling rate in pixels, cutoff and half width of the transition band in cycles."""

    size: int
    sampling_rate: int
    cutoff: float
    half_width: float


def bands(
    resolution: int,
    num_layers: int,
    num_critical: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband_rel: float,
    margin_size: int,
) -> list[Band]:
    """Geometric progression of cutoffs from the first layer to the critically sampled last ones, num_layers + 1 in all."""
    last_cutoff = resolution / 2
    exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** exponents
    stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + margin_size * 2
    sizes[-2:] = resolution
    return [Band(int(s), int(r), float(c), float(h)) for s, r, c, h in zip(sizes, rates, cutoffs, half_widths)]


def layer_widths(found: list[Band], channel_base: int, channel_max: int) -> tuple[int, ...]:
    """Official input widths of all layers: (channel_base / 2) / cutoff, at most ``channel_max``."""
    widths = [int(min(round(channel_base / 2 / band.cutoff), channel_max)) for band in found]
    return (widths[0], *widths[:-1])


class FourierInput(nn.Module):
    """Fourier features of a plane that the first style rotates and moves: w (B, w_dim) to (B, channels, size, size)."""

    ganzip_quantizable = True

    def __init__(self, w_dim: int, channels: int, frequencies: int, size: int, sampling_rate: int, bandwidth: float):
        super().__init__()
        self.size, self.sampling_rate, self.bandwidth = size, sampling_rate, bandwidth
        freqs = torch.randn(frequencies, 2)
        radii = freqs.norm(dim=1, keepdim=True)
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * bandwidth  # uniform in the disk
        self.weight = nn.Parameter(torch.randn(channels, frequencies))
        self.affine = FullyConnectedLayer(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(frequencies) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        wide = at_least_float32(self.freqs).dtype
        cos, sin, x, y = self._placement(w).to(wide).unbind(dim=1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).view(-1, 3, 3)
        transform = rotation @ shift @ self.transform.to(wide)
        freqs, phases = self.freqs.to(wide), self.phases.to(wide)
        phases = phases + (freqs @ transform[:, :2, 2:]).squeeze(2)  # (B, F)
        freqs = freqs @ transform[:, :2, :2]  # (B, F, 2)
        cutoff = self.sampling_rate / 2
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / (cutoff - self.bandwidth)).clamp(0, 1)
        axis = (torch.arange(self.size, device=w.device, dtype=wide) + 0.5) / self.sampling_rate
        axis = axis - 0.5 * self.size / self.sampling_rate
        # The angle of a plane wave is the sum of one term per axis.
        rows = freqs[:, None, :, 1] * axis[:, None] + phases[:, None]  # (B, H, F)
        columns = freqs[:, None, :, 0] * axis[:, None]
        waves = torch.sin((rows[:, :, None] + columns[:, None]) * (2 * math.pi)) * amplitudes[:, None, None]
        weight = self.weight.to(wide) / math.sqrt(self.weight.shape[1])
        return F.linear(waves, weight).permute(0, 3, 1, 2)

    def _placement(self, w: Tensor) -> Tensor:
        """(cos, sin, x, y) of the rotation and translation, (B, 4)."""
        t = self.affine(w)
        return t / t[:, :2].norm(dim=1, keepdim=True)


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU, or the image output (1 x 1, linear).

    ``x`` (B, in_channels, H, W) and style ``w`` (B, w_dim) to (B, out_channels, H', W').
    """

    ganzip_quantizable = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        before: Band,
        after: Band,
        *,
        is_image: bool,
        radial: bool,
        kernel_size: int,
        filter_size: int,
        lrelu_upsampling: int,
        conv_clamp: float | None,
        magnitude_ema_beta: float,
    ):
        super().__init__()
        self.is_image, self.conv_clamp, self.magnitude_ema_beta = is_image, conv_clamp, magnitude_ema_beta
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        rate = max(before.sampling_rate, after.sampling_rate) * (1 if is_image else lrelu_upsampling)
        up, down = rate // before.sampling_rate, rate // after.sampling_rate
        up_taps = filter_size * up if up > 1 and not is_image else 1
        down_taps = filter_size * down if down > 1 and not is_image else 1
        self.register_buffer("up_filter", lowpass_filter(up_taps, before.cutoff, before.half_width * 2, rate))
        self.register_buffer(
            "down_filter", lowpass_filter(down_taps, after.cutoff, after.half_width * 2, rate, radial=radial)
        )
        size = before.size + kernel_size - 1
        total = (after.size - 1) * down + 1 - size * up + up_taps + down_taps - 2
        start = (total + up) // 2
        self.activation = FilteredActivation(size, up, down, (start, total - start))

    def forward(self, x: Tensor, w: Tensor, update_magnitude: bool = False) -> Tensor:
        if update_magnitude:
            magnitude = at_least_float32(x.detach()).square().mean()
            self.magnitude_ema.copy_(magnitude.lerp(self.magnitude_ema.to(magnitude.dtype), self.magnitude_ema_beta))
        input_gain = at_least_float32(self.magnitude_ema).rsqrt()
        styles = at_least_float32(self.affine(w))
        weight = at_least_float32(self.weight)
        if self.is_image:
            styles = styles / math.sqrt(weight[0].numel())
            scale = input_gain.expand(len(styles), len(weight))
        else:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY).rsqrt()
            styles = styles * styles.square().mean(dim=1, keepdim=True).clamp_min(_TINY).rsqrt()
            energy = F.linear(styles.square(), weight.square().sum(dim=(2, 3)))
            scale = (energy + 1e-8).rsqrt() * input_gain  # (B, O)
        padding = self.weight.shape[2] - 1
        x = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=padding)
        x = x * scale.to(x.dtype)[:, :, None, None]
        gain, slope = (1.0, 1.0) if self.is_image else (math.sqrt(2), 0.2)
        return self.activation(
            x, self.bias, self.up_filter, self.down_filter, gain=gain, slope=slope, clamp=self.conv_clamp
        )


class SynthesisNetwork(nn.Module):
    """Styles ws (B, num_ws, w_dim) to images (B, C, H, W) float32."""

    def __init__(
        self,
        found: list[Band],
        channels,
        frequencies,
        image_channels,
        w_dim,
        num_critical,
        output_scale,
        radial,
        **layer,
    ):
        super().__init__()
        self.bands, self.output_scale = found, output_scale
        self.gradient_checkpointing = False
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
        for index, name in enumerate(self.layer_names):
            layer = getattr(self, name)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(layer, x, w[index + 1])
            else:
                x = layer(x, w[index + 1], update_magnitude)
        return at_least_float32(x) * self.output_scale


class StyleGAN3Generator(GeneratorMixin, ModelMixin, ConfigMixin):
    """StyleGAN3 generator; state-dict keys follow the official checkpoints (``synthesis.L0_36_512.weight``, ...).

    Args:
        resolution: Image side in pixels, a power of two.
        image_channels: 3 for RGB, 1 for grey images.
        z_dim: Dimension of the latent z.
        w_dim: Dimension of the style w.
        num_classes: 0 for unconditional models.
        mapping_layers: Fully connected layers of the mapping network.
        channels: Input width of each of the num_layers + 1 layers. Pruned generators are ordinary configs. None: the official
            widths for ``channel_base`` and ``channel_max``, then written into the config.
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
        if not 0 <= num_critical < num_layers:
            raise ValueError(f"num_critical is {num_critical}; allowed are 0 to {num_layers - 1}.")
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

    @property
    def num_ws(self) -> int:
        """Number of style inputs of the synthesis network."""
        return self.synthesis.num_ws

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
        dtype = getattr(self.synthesis, self.synthesis.layer_names[0]).bias.dtype
        if torch.is_autocast_enabled(ws.device.type):
            dtype = torch.get_autocast_dtype(ws.device.type)
        return self.synthesis(ws, dtype, update_magnitude)

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
    ) -> GeneratorOutput | tuple[Tensor]:
        """Generate images.

        Args:
            z: Latents (B, z_dim), standard normal.
            class_labels: Ids (B,) int64 or one-hot rows (B, num_classes) for conditional models.
            truncation_psi: 1 = no truncation.
            truncation_cutoff: Number of leading styles that are truncated; None means all.
            noise_mode: Not used: the network has no noise inputs.
            generator: Not used.
            return_dict: False returns a plain tuple.

        Returns:
            ``.sample`` float32 (B, C, H, W), about [-1, 1].
        """
        ws = self.mapping(z, class_labels, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        image = self.synthesize(ws, noise_mode=noise_mode)
        return GeneratorOutput(sample=image) if return_dict else (image,)
