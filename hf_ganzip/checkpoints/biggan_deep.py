# SPDX-License-Identifier: Apache-2.0
"""BigGAN-deep as pytorch-pretrained-biggan saves it: a folder with config.json and pytorch_model.bin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models import BigGANDeepGenerator
from .build import build_model, number
from .pickle_reader import CheckpointError, DamagedCheckpointError


LICENSE = "unknown (code MIT; DeepMind's weights Apache-2.0)"
_IMAGE_CHANNELS = 3  # the published output layer has more and drops the rest


def convert_biggan_deep(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BigGANDeepGenerator:
    """The generator that ``config.json`` describes; spectral norms are folded into its weights.

    Args:
        options: Contents of ``config.json``. Numbers are held to limits, so that a damaged file allocates little.
        tensors: State dict.

    Raises:
        DamagedCheckpointError: An option is missing or beyond its limits, or the tensors do not fit the options.
    """
    layers = options.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= 64 or not all(_is_layer(layer) for layer in layers):
        raise DamagedCheckpointError("config.json has no list `layers` of [upsample, in, out].")
    upsample, inputs, outputs = zip(*layers)
    width = int(number(options.get("channel_width"), "channel_width", 1, 4096))
    position = options.get("attention_layer_position", -1)
    config = {
        "image_channels": _IMAGE_CHANNELS,
        "z_dim": int(number(options.get("z_dim"), "z_dim", 1, 1 << 16)),
        "num_classes": int(number(options.get("num_classes"), "num_classes", 1, 1 << 20)),
        "channels": tuple(count * width for count in (inputs[0], *outputs)),
        "upsample": tuple(map(bool, upsample)),
        "attention_before": int(number(position, "attention_layer_position", -1, 64)),
        "n_stats": int(number(options.get("n_stats", 51), "n_stats", 2, 1 << 12)),
        "eps": number(options.get("eps", 1e-4), "eps", 1e-12, 1.0),
    }
    return build_model(BigGANDeepGenerator, config, _folded(tensors))


def matches_folder(options: Any) -> bool:
    """Whether a ``config.json`` is one of this layout."""
    return isinstance(options, dict) and "attention_layer_position" in options


def matches(data: Any) -> bool:
    """A state dict of this layout, which needs its ``config.json``."""
    return isinstance(data, dict) and "generator.gen_z.weight_orig" in data


def convert(data: Mapping[str, Any], network: str, notes: list[str]) -> Any:
    """Refuse: the file alone does not say which blocks double the size."""
    raise CheckpointError("BigGAN-deep needs the config.json beside pytorch_model.bin: give the folder, not the file.")


def _is_layer(layer: Any) -> bool:
    """Whether an entry is [upsample, in, out], with channels in units of ``channel_width``."""
    return (
        isinstance(layer, list)
        and len(layer) == 3
        and all(type(entry) is int and 0 < entry <= 4096 for entry in layer[1:])
    )


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without spectral norms; of the output layer, the rows that are used."""
    folded: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.endswith(("_u", "_v", "num_batches_tracked")):
            continue
        if key.endswith("weight_orig"):
            key = key.removesuffix("_orig")
            value = _normalized(value, key, tensors)
        if key.startswith("generator.conv_to_rgb."):
            value = value[:_IMAGE_CHANNELS]
        folded[key] = value
    return folded


def _normalized(weight: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """``weight`` over its spectral norm u^T W v, as the stored vectors u and v give it."""
    u, v = tensors.get(f"{name}_u"), tensors.get(f"{name}_v")
    matrix = weight.flatten(1) if weight.ndim > 1 else weight[:, None]
    if u is None or v is None or u.shape != matrix.shape[:1] or v.shape != matrix.shape[1:]:
        raise DamagedCheckpointError(f"{name} lacks the vectors of its spectral norm.")
    return weight / torch.dot(u, matrix @ v)
