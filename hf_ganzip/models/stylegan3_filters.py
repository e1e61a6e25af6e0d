# SPDX-License-Identifier: Apache-2.0
"""Design of StyleGAN3: band, width and low-pass filters of every layer (Karras et al., NeurIPS 2021, appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """Signal after a layer: side and sampling rate in pixels, cutoff and half width of its transition in cycles."""

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
    """Geometric progression of cutoffs from the first to the critically sampled last layers, num_layers + 1 in all."""
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


def kaiser_beta(taps: int, width: float) -> float:
    """Shape of the Kaiser window for a transition band of ``width`` (1 = half the sampling rate) (Kaiser, 1974)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def lowpass_filter(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> Tensor | None:
    """Windowed low-pass filter with sum 1: (taps,) separable or (taps, taps) radially symmetric, float32.

    Args:
        taps: Length; 1 means no filter and gives None.
        cutoff: Frequency in cycles per unit.
        width: Of the transition band.
        sampling_rate: Samples per unit.
        radial: Jinc instead of sinc.
    """
    if taps == 1:
        return None
    window = np.kaiser(taps, kaiser_beta(taps, width / (sampling_rate / 2)))
    time = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    if radial:
        radius = np.hypot(*np.meshgrid(time, time))
        bessel = torch.special.bessel_j1(torch.as_tensor(2 * math.pi * cutoff * radius, device="cpu")).numpy()
        kernel = bessel / (math.pi * radius) * np.outer(window, window)
    else:
        kernel = np.sinc(2 * cutoff * time) * window
    return torch.as_tensor(kernel / kernel.sum(), dtype=torch.float32)
