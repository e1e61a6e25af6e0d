# SPDX-License-Identifier: Apache-2.0
"""BigGAN-deep in the layout of pytorch-pretrained-biggan: a folder or Hub repository with config.json and
pytorch_model.bin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models import BigGANDeepGenerator
from .build import build_model, number
from .errors import CheckpointError, DamagedCheckpointError


LICENSE = "unknown (code MIT; DeepMind's weights Apache-2.0)"
_IMAGE_CHANNELS = 3  # the published output layer has more and drops the rest


def convert_biggan_deep(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BigGANDeepGenerator:
    """Model from ``config.json`` and its state dict; spectral norms are folded into the weights.

    Raises:
        DamagedCheckpointError: They contradict each other.
    """
    layers = options.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= 64 or not all(_is_layer(layer) for layer in layers):
        raise DamagedCheckpointError("config.json has no list `layers` of [upsample, in, out].")
    width = int(number(options.get("channel_width"), "channel_width", 1, 4096))
    position = options.get("attention_layer_position", -1)
    config = {
        "image_channels": _IMAGE_CHANNELS,
        "z_dim": int(number(options.get("z_dim"), "z_dim", 1, 1 << 16)),
        "num_classes": int(number(options.get("num_classes"), "num_classes", 1, 1 << 20)),
        "channels": (layers[0][1] * width, *(layer[2] * width for layer in layers)),
        "upsample": tuple(bool(layer[0]) for layer in layers),
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
    return (
        isinstance(layer, list)
        and len(layer) == 3
        and all(type(entry) is int and 0 < entry <= 4096 for entry in layer[1:])
    )


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights divided by sigma = u^T W v with the stored vectors; of the output layer, the rows that are used."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise DamagedCheckpointError(f"{key} is no tensor.")
        if key.endswith(("_u", "_v", "num_batches_tracked")):
            continue
        if key.endswith("weight_orig"):
            name = key.removesuffix("_orig")
            u = tensors.get(f"{name}_u")
            v = tensors.get(f"{name}_v")
            matrix = value.flatten(1) if value.ndim > 1 else value[:, None]
            if u is None or v is None or u.shape != matrix.shape[:1] or v.shape != matrix.shape[1:]:
                raise DamagedCheckpointError(f"{name} lacks the vectors of its spectral norm.")
            key, value = name, value / torch.dot(u, matrix @ v)
        if key.startswith("generator.conv_to_rgb."):
            value = value[:_IMAGE_CHANNELS]
        found[key] = value
    return found
