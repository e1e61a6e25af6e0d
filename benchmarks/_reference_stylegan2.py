# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 synthesis written the straightforward way, as a yardstick for tests and benchmarks.

Each sample gets its own modulated and demodulated weights, the batch runs as one grouped (transposed) convolution in
the default memory format, and resampling inserts zeros and applies the FIR filter as a depthwise convolution. Only the
parameters are taken from a :class:`hf_ganzip.models.StyleGAN2Generator`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fir(x: Tensor, kernel: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Pad ``x`` (B, C, H, W) and convolve every channel with ``gain * kernel``."""
    channels = x.shape[1]
    weight = (kernel.flip(0, 1) * gain).to(x.dtype)[None, None].repeat(channels, 1, 1, 1)
    return F.conv2d(F.pad(x, [before, after, before, after]), weight, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Insert a zero after every pixel, then filter: (B, C, H, W) to (B, C, 2H, 2W)."""
    batch, channels, height, width = x.shape
    size = kernel.shape[0]
    zeros = x.new_zeros(batch, channels, height, 2, width, 2)
    zeros[:, :, :, 0, :, 0] = x
    zeros = zeros.reshape(batch, channels, 2 * height, 2 * width)
    return fir(zeros, kernel, (size + 1) // 2, (size - 2) // 2, gain=4.0)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Affine map with equalized learning rate."""
    gain = layer.weight_gain
    return F.linear(x, layer.weight.to(x.dtype) * gain, layer.bias.to(x.dtype) * layer.bias_gain)


def modulated_convolution(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool) -> Tensor:
    """One weight per sample, one group per sample. ``up`` doubles the size (to 2H + 1, before filtering)."""
    batch, in_channels, height, width = x.shape
    out_channels, _, size, _ = weight.shape
    w = weight[None] * styles[:, None, :, None, None]  # (B, O, I, k, k)
    if demodulate:
        w = w * (w.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, batch * in_channels, height, width)
    if up:
        w = w.transpose(1, 2).reshape(batch * in_channels, out_channels, size, size)
        x = F.conv_transpose2d(x, w, stride=2, groups=batch)
    else:
        w = w.reshape(batch * out_channels, in_channels, size, size)
        x = F.conv2d(x, w, padding=size // 2, groups=batch)
    return x.reshape(batch, out_channels, *x.shape[2:])


def layer(module: nn.Module, x: Tensor, w: Tensor, up: bool, noise: bool, gain: float = 1.0) -> Tensor:
    """Modulated 3x3 convolution, stored noise, bias, leaky ReLU, clamp."""
    x = modulated_convolution(x, module.weight.to(x.dtype), linear(module.affine, w), True, up)
    if up:
        size = module.resample_filter.shape[0]
        x = fir(x, module.resample_filter, (size + 1) // 2 - 1, (size - 2) // 2, gain=4.0)
    if noise:
        x = x + (module.noise_const * module.noise_strength).to(x.dtype)
    x = F.leaky_relu(x + module.bias.to(x.dtype)[None, :, None, None], 0.2) * (math.sqrt(2) * gain)
    return x if module.conv_clamp is None else x.clamp(-module.conv_clamp * gain, module.conv_clamp * gain)


def to_image(module: nn.Module, x: Tensor, w: Tensor) -> Tensor:
    """Modulated 1x1 convolution without demodulation, bias, clamp."""
    styles = linear(module.affine, w) * module.weight_gain
    x = modulated_convolution(x, module.weight.to(x.dtype), styles, False, up=False)
    x = x + module.bias.to(x.dtype)[None, :, None, None]
    return x if module.conv_clamp is None else x.clamp(-module.conv_clamp, module.conv_clamp)


def block(module: nn.Module, x: Tensor, image: Tensor | None, ws: Tensor, noise: bool) -> tuple[Tensor, Tensor | None]:
    """One resolution after the first."""
    gain = math.sqrt(0.5) if module.architecture == "resnet" else 1.0
    y = layer(module.conv0, x, ws[:, 0], True, noise)
    y = layer(module.conv1, y, ws[:, 1], False, noise, gain)
    if module.architecture == "resnet":
        weight = module.skip.weight.to(x.dtype) * module.skip.weight_gain
        y = y + upsample(F.conv2d(x, weight), module.resample_filter) * gain
    image = None if image is None else upsample(image, module.resample_filter)
    if module.has_torgb:
        rgb = to_image(module.torgb, y, ws[:, 2]).to(torch.promote_types(y.dtype, torch.float32))
        image = rgb if image is None else image + rgb
    return y, image


def synthesize(generator: nn.Module, ws: Tensor, *, noise_mode: str = "const") -> Tensor:
    """Styles ws (B, num_ws, w_dim) to images (B, C, H, W), float32 or wider.

    Args:
        generator: A StyleGAN2Generator; computes in the dtype of its synthesis parameters.
        ws: Styles.
        noise_mode: "const" or "none".
    """
    network, noise = generator.synthesis, noise_mode == "const"
    first = network.b4
    ws = ws.to(first.const.dtype)
    x = first.const[None].repeat(len(ws), 1, 1, 1)
    x = layer(first.conv1, x, ws[:, 0], False, noise)
    image = None
    if first.has_torgb:
        image = to_image(first.torgb, x, ws[:, 1]).to(torch.promote_types(x.dtype, torch.float32))
    start = 1
    for size in network.block_resolutions[1:]:
        x, image = block(getattr(network, f"b{size}"), x, image, ws[:, start : start + 3], noise)
        start += 2
    return image
