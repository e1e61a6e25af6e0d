# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the rosinality StyleGAN2 code (also of DCP-GAN, CAGAN and StyleKD): g_ema, g, d, latent_avg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models import StyleGAN2Discriminator, StyleGAN2Generator
from .build import build_model, count_blocks, shape_of
from .errors import CheckpointError, DamagedCheckpointError
from .stylegan2_names import discriminator_config, filters, generator_config


NETWORKS = {"G_ema": "g_ema", "G": "g", "D": "d"}
LICENSE = "unknown (code MIT; weights converted from NVIDIA's are under nvidia-source-code-license-nc)"


def matches(data: Any) -> bool:
    """A dict with state dicts under the names of this code."""
    return isinstance(data, dict) and any(
        isinstance(data.get(key), dict) and ("input.input" in data[key] or "convs.0.0.weight" in data[key])
        for key in NETWORKS.values()
    )


def convert(data: Mapping[str, Any], network: str, notes: list[str]) -> Any:
    """The chosen network."""
    state = data.get(NETWORKS.get(network, ""))
    if not isinstance(state, dict):
        present = [name for name, key in NETWORKS.items() if isinstance(data.get(key), dict)]
        raise CheckpointError(f"the checkpoint has no network {network!r}; it has {', '.join(present)}.")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise DamagedCheckpointError(f"{NETWORKS[network]} holds something that is no tensor.")
    if network == "D":
        return _discriminator(state)
    return _generator(state, data.get("latent_avg"), notes)


def _generator(state: Mapping[str, Tensor], mean: Any, notes: list[str]) -> Any:
    tensors: dict[str, Tensor] = {}
    layers = count_blocks(state, "style.{}.weight", start=1)
    for index in range(layers):
        tensors[f"mapping.fc{index}.weight"] = _get(state, f"style.{index + 1}.weight")
        tensors[f"mapping.fc{index}.bias"] = _get(state, f"style.{index + 1}.bias")
    w_dim = shape_of(state, f"style.{layers}.weight", 2)[0]
    if isinstance(mean, Tensor) and mean.numel() == w_dim:
        tensors["mapping.w_avg"] = mean.reshape(-1)
    else:
        tensors["mapping.w_avg"] = torch.zeros(w_dim)
        notes.append("the checkpoint has no latent_avg: truncation needs the mean style, which is set to zero")
    tensors["synthesis.b4.const"] = _get(state, "input.input", 4)[0]
    tensors |= _layer(state, "conv1", "synthesis.b4.conv1", 0) | _image(state, "to_rgb1", "synthesis.b4.torgb")
    for index in range(count_blocks(state, "to_rgbs.{}.bias")):
        block = f"synthesis.b{8 * 2**index}"
        tensors |= _layer(state, f"convs.{2 * index}", f"{block}.conv0", 2 * index + 1)
        tensors |= _layer(state, f"convs.{2 * index + 1}", f"{block}.conv1", 2 * index + 2)
        tensors |= _image(state, f"to_rgbs.{index}", f"{block}.torgb")
    _fill_noise(tensors, notes)
    config = generator_config(tensors)
    return build_model(StyleGAN2Generator, config, tensors, filters(config))


def _fill_noise(tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Older files lack the stored noise."""
    layers = [name.removesuffix(".noise_strength") for name in tensors if name.endswith(".noise_strength")]
    missing = [name for name in layers if f"{name}.noise_const" not in tensors]
    for name in missing:
        size = int(name.split(".")[1].removeprefix("b"))
        random = torch.Generator().manual_seed(layers.index(name))
        tensors[f"{name}.noise_const"] = torch.randn(size, size, generator=random)
    if missing:
        notes.append(
            f"the checkpoint lacks the stored noise of {len(missing)} layers, which noise_mode='const' needs: "
            "set to fixed random numbers"
        )


def _layer(state: Mapping[str, Tensor], source: str, target: str, noise: int) -> dict[str, Tensor]:
    tensors = {
        f"{target}.weight": _get(state, f"{source}.conv.weight", 5)[0],
        f"{target}.bias": _get(state, f"{source}.activate.bias"),
        f"{target}.affine.weight": _get(state, f"{source}.conv.modulation.weight"),
        f"{target}.affine.bias": _get(state, f"{source}.conv.modulation.bias"),
        f"{target}.noise_strength": _get(state, f"{source}.noise.weight").reshape([]),
    }
    stored = state.get(f"noises.noise_{noise}")
    if stored is not None:
        tensors[f"{target}.noise_const"] = stored.reshape(stored.shape[-2:])
    return tensors


def _image(state: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    return {
        f"{target}.weight": _get(state, f"{source}.conv.weight", 5)[0],
        f"{target}.bias": _get(state, f"{source}.bias").reshape(-1),
        f"{target}.affine.weight": _get(state, f"{source}.conv.modulation.weight"),
        f"{target}.affine.bias": _get(state, f"{source}.conv.modulation.bias"),
    }


def _discriminator(state: Mapping[str, Tensor]) -> Any:
    blocks = count_blocks(state, "convs.{}.conv1.0.weight", start=1)
    tensors: dict[str, Tensor] = {}
    for index in range(blocks):
        source, block = f"convs.{index + 1}", f"b{4 * 2 ** (blocks - index)}"
        if index == 0:
            tensors[f"{block}.fromrgb.weight"] = _get(state, "convs.0.0.weight", 4)
            tensors[f"{block}.fromrgb.bias"] = _get(state, "convs.0.1.bias")
        tensors[f"{block}.conv0.weight"] = _get(state, f"{source}.conv1.0.weight", 4)
        tensors[f"{block}.conv0.bias"] = _get(state, f"{source}.conv1.1.bias")
        tensors[f"{block}.conv1.weight"] = _get(state, f"{source}.conv2.1.weight", 4)
        tensors[f"{block}.conv1.bias"] = _get(state, f"{source}.conv2.2.bias")
        tensors[f"{block}.skip.weight"] = _get(state, f"{source}.skip.1.weight", 4)
    for source, target in (("final_conv.0", "b4.conv"), ("final_linear.0", "b4.fc"), ("final_linear.1", "b4.out")):
        tensors[f"{target}.weight"] = _get(state, f"{source}.weight")
        tensors[f"{target}.bias"] = _get(state, "final_conv.1.bias" if target == "b4.conv" else f"{source}.bias")
    config = discriminator_config(tensors) | {"mbstd_group_size": 4}
    return build_model(StyleGAN2Discriminator, config, tensors, filters(config))


def _get(state: Mapping[str, Tensor], name: str, dims: int | None = None) -> Tensor:
    value = state.get(name)
    if value is None or (dims is not None and value.ndim != dims):
        raise DamagedCheckpointError(
            f"the checkpoint has no tensor {name}{f' with {dims} dimensions' if dims else ''}."
        )
    return value
