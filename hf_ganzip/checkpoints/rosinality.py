# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the rosinality StyleGAN2 code (also of DCP-GAN, CAGAN and StyleKD): g_ema, g, d, latent_avg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models import StyleGAN2Discriminator, StyleGAN2Generator
from .build import build_model, count_blocks, network_state, shape_of, tensor_of
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
    state = network_state(data, NETWORKS, network)
    if network == "D":
        return _discriminator(state)
    return _generator(state, data.get("latent_avg"), notes)


def _generator(state: Mapping[str, Tensor], mean: Any, notes: list[str]) -> Any:
    tensors: dict[str, Tensor] = {}
    layers = count_blocks(state, "style.{}.weight", start=1)
    for index in range(layers):
        tensors[f"mapping.fc{index}.weight"] = tensor_of(state, f"style.{index + 1}.weight")
        tensors[f"mapping.fc{index}.bias"] = tensor_of(state, f"style.{index + 1}.bias")
    w_dim = shape_of(state, f"style.{layers}.weight", 2)[0]
    if isinstance(mean, Tensor) and mean.numel() == w_dim:
        tensors["mapping.w_avg"] = mean.reshape(-1)
    else:
        tensors["mapping.w_avg"] = torch.zeros(w_dim)
        notes.append("the checkpoint has no latent_avg: truncation needs the mean style, which is set to zero")
    tensors["synthesis.b4.const"] = tensor_of(state, "input.input", 4)[0]
    tensors |= _layer(state, "conv1", "synthesis.b4.conv1", 0)
    tensors |= _modulated(state, "to_rgb1", "synthesis.b4.torgb", "to_rgb1.bias")
    for index in range(count_blocks(state, "to_rgbs.{}.bias")):
        block = f"synthesis.b{8 * 2**index}"
        tensors |= _layer(state, f"convs.{2 * index}", f"{block}.conv0", 2 * index + 1)
        tensors |= _layer(state, f"convs.{2 * index + 1}", f"{block}.conv1", 2 * index + 2)
        tensors |= _modulated(state, f"to_rgbs.{index}", f"{block}.torgb", f"to_rgbs.{index}.bias")
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
    tensors = _modulated(state, source, target, f"{source}.activate.bias")
    tensors[f"{target}.noise_strength"] = tensor_of(state, f"{source}.noise.weight").reshape([])
    stored = state.get(f"noises.noise_{noise}")
    if stored is not None:
        tensors[f"{target}.noise_const"] = stored.reshape(stored.shape[-2:])
    return tensors


def _modulated(state: Mapping[str, Tensor], source: str, target: str, bias: str) -> dict[str, Tensor]:
    return {
        f"{target}.weight": tensor_of(state, f"{source}.conv.weight", 5)[0],
        f"{target}.bias": tensor_of(state, bias).reshape(-1),
        f"{target}.affine.weight": tensor_of(state, f"{source}.conv.modulation.weight"),
        f"{target}.affine.bias": tensor_of(state, f"{source}.conv.modulation.bias"),
    }


def _discriminator(state: Mapping[str, Tensor]) -> Any:
    blocks = count_blocks(state, "convs.{}.conv1.0.weight", start=1)
    sources = {  # layer -> where its weight and its bias are
        "b4.conv": ("final_conv.0", "final_conv.1"),
        "b4.fc": ("final_linear.0", "final_linear.0"),
        "b4.out": ("final_linear.1", "final_linear.1"),
        f"b{4 * 2**blocks}.fromrgb": ("convs.0.0", "convs.0.1"),
    }
    tensors = {}
    for index in range(blocks):
        source, block = f"convs.{index + 1}", f"b{4 * 2 ** (blocks - index)}"
        sources[f"{block}.conv0"] = (f"{source}.conv1.0", f"{source}.conv1.1")
        sources[f"{block}.conv1"] = (f"{source}.conv2.1", f"{source}.conv2.2")
        tensors[f"{block}.skip.weight"] = tensor_of(state, f"{source}.skip.1.weight", 4)
    for layer, (weight, bias) in sources.items():
        tensors[f"{layer}.weight"] = tensor_of(state, f"{weight}.weight")
        tensors[f"{layer}.bias"] = tensor_of(state, f"{bias}.bias")
    config = discriminator_config(tensors) | {"mbstd_group_size": 4}
    return build_model(StyleGAN2Discriminator, config, tensors, filters(config))
