# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of UGATIT-pytorch: genA2B, genB2A and the discriminators disGA, disGB, disLA, disLB."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models import UGATITDiscriminator, UGATITGenerator
from .build import build_model, count_blocks, network_state, shape_of


NETWORKS = ("genA2B", "genB2A", "disGA", "disGB", "disLA", "disLB")
LICENSE = "unknown (code MIT)"
_ALIASES = {"G_ema": "genA2B", "G": "genA2B", "D": "disGB"}


def matches(data: Any) -> bool:
    """A dict with state dicts under these names."""
    return isinstance(data, dict) and any(isinstance(data.get(name), dict) for name in NETWORKS)


def convert(data: Mapping[str, Any], network: str, notes: list[str]) -> Any:
    """The chosen network; "G_ema" and "G" mean genA2B, "D" its global discriminator disGB."""
    name = _ALIASES.get(network, network)
    state = network_state(data, {each: each for each in NETWORKS}, name)
    return _generator(state, notes) if name.startswith("gen") else _discriminator(state)


def _generator(state: Mapping[str, Tensor], notes: list[str]) -> UGATITGenerator:
    base, channels = shape_of(state, "DownBlock.1.weight", 4)[:2]
    outputs, inputs = shape_of(state, "FC.0.weight", 2)
    light = inputs == outputs  # its first layer is given pooled features, that of the full network every pixel's
    if light:
        notes.append(
            "the light network takes any size and does not say which it was trained for: resolution is set to 256"
        )
    config = {
        "image_channels": channels,
        "base_channels": base,
        "num_blocks": count_blocks(state, "UpBlock1_{}.conv1.weight", start=1),
        "light": light,
        "resolution": 256 if light else 4 * math.isqrt(inputs // (4 * base)),
    }
    return build_model(UGATITGenerator, config, state)


def _discriminator(state: Mapping[str, Tensor]) -> UGATITDiscriminator:
    base, channels = shape_of(state, "model.1.weight_orig", 4)[:2]
    layers = sum(re.fullmatch(r"model\.\d+\.weight_orig", key) is not None for key in state)
    config = {"image_channels": channels, "base_channels": base, "num_layers": layers + 1}
    return build_model(UGATITDiscriminator, config, renamed_spectral_norms(state))


def renamed_spectral_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of ``torch.nn.utils.spectral_norm`` as its parametrization has them; the classifiers keep theirs."""
    endings = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf in endings and module not in ("gap_fc", "gmp_fc"):
            key = f"{module}.parametrizations.weight.{endings[leaf]}"
        renamed[key] = value
    return renamed
