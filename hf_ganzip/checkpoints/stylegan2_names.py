# SPDX-License-Identifier: Apache-2.0
"""Options of StyleGAN2 networks, read off the shapes of their tensors (official names)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..models.base import width_entry
from ..models.stylegan2_layers import blur_kernel
from .build import count_blocks, shape_of
from .pickle_reader import DamagedCheckpointError


SIZES = [2**i for i in range(2, 13)]
TAPS = (1, 3, 3, 1)


def generator_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of a generator, except for ``conv_clamp`` and ``w_avg_beta``."""
    sizes = [size for size in SIZES if f"synthesis.b{size}.conv1.weight" in tensors]
    if not sizes:
        raise DamagedCheckpointError("the checkpoint has no synthesis blocks.")
    channels = []
    for size in sizes:
        first = "const" if size == 4 else "conv0.weight"
        width = shape_of(tensors, f"synthesis.b{size}.{first}", 3 if size == 4 else 4)[0]
        channels.append(width_entry(width, shape_of(tensors, f"synthesis.b{size}.conv1.weight", 4)[0]))
    last = sizes[-1]
    architecture = "orig"
    if "synthesis.b4.torgb.weight" in tensors and last > 4:
        architecture = "skip"
    elif f"synthesis.b{last}.skip.weight" in tensors:
        architecture = "resnet"
    w_dim = shape_of(tensors, "synthesis.b4.conv1.affine.weight", 2)[1]
    return mapping_config(tensors, w_dim) | {
        "resolution": last,
        "image_channels": shape_of(tensors, f"synthesis.b{last}.torgb.weight", 4)[0],
        "channels": tuple(channels),
        "architecture": architecture,
        "resample_filter": _taps(tensors, "synthesis.b4.resample_filter"),
    }


def mapping_config(tensors: Mapping[str, Tensor], w_dim: int) -> dict[str, Any]:
    """Options of the mapping network of a generator."""
    embedded = "mapping.embed.weight" in tensors
    return {
        "z_dim": shape_of(tensors, "mapping.fc0.weight", 2)[1] - (w_dim if embedded else 0),
        "w_dim": w_dim,
        "num_classes": shape_of(tensors, "mapping.embed.weight", 2)[1] if embedded else 0,
        "mapping_layers": count_blocks(tensors, "mapping.fc{}.weight"),
    }


def discriminator_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of a discriminator, except for ``conv_clamp`` and ``mbstd_group_size``."""
    sizes = [size for size in SIZES if f"b{size}.conv0.weight" in tensors]
    if not sizes:
        raise DamagedCheckpointError("the checkpoint has no discriminator blocks.")
    last = sizes[-1]
    widths = [shape_of(tensors, "b4.conv.weight", 4)[0]]
    widths += [shape_of(tensors, f"b{size}.conv0.weight", 4)[0] for size in sizes]
    architecture = "orig"
    if f"b{last}.skip.weight" in tensors:
        architecture = "resnet"
    elif "b4.fromrgb.weight" in tensors:
        architecture = "skip"
    conditional = "mapping.embed.weight" in tensors
    return {
        "resolution": last,
        "image_channels": shape_of(tensors, f"b{last}.fromrgb.weight", 4)[1],
        "num_classes": shape_of(tensors, "mapping.embed.weight", 2)[1] if conditional else 0,
        "mapping_layers": count_blocks(tensors, "mapping.fc{}.weight") if conditional else 8,
        "channels": tuple(widths),
        "architecture": architecture,
        "resample_filter": _taps(tensors, f"b{last}.resample_filter"),
    }


def filters(config: Mapping[str, Any]) -> Callable[[str], Tensor | None]:
    """The low-pass filters, which formats without buffers leave out, by name."""
    kernel = blur_kernel(tuple(config["resample_filter"]))
    return lambda name: kernel if name.endswith("resample_filter") else None


def _taps(tensors: Mapping[str, Tensor], name: str) -> tuple[float, ...]:
    if name not in tensors:
        return TAPS
    size, other = shape_of(tensors, name, 2)
    if size != other or not 1 <= size <= 32:
        raise DamagedCheckpointError(f"{name} has shape {(size, other)}; allowed are squares up to 32.")
    taps = tensors[name].double().sum(dim=0)
    ratio = [float(tap / taps.min()) for tap in taps]
    rounded = [round(tap) for tap in ratio]
    close = max(abs(tap - near) for tap, near in zip(ratio, rounded)) < 1e-4
    return tuple(rounded) if close else tuple(ratio)
