# SPDX-License-Identifier: Apache-2.0
"""TensorFlow-era pickles of StyleGAN, StyleGAN2 and StyleGAN2-ADA: (G, D, Gs), named variables, source text (ignored).

Also the comparison models of the ADA paper (zCR-, SN-, PA-, SS-GAN), which have the same generator. Variables are
stored as (height, width, in, out); kernels of transposed convolutions point the other way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models import StyleGAN2Discriminator, StyleGAN2Generator, StyleGANGenerator
from ..models.base import width_entry
from ..models.stylegan2_layers import blur_kernel
from .build import as_dict, build_model, conv_clamp, count_blocks, number, w_avg_beta
from .pickle_reader import CheckpointError, DamagedCheckpointError, Instance
from .stylegan2_names import TAPS, discriminator_config, filters, generator_config


NETWORKS = ("G_ema", "G", "D")
LICENSE = "nvidia-source-code-license-nc"
_REQUIRED = {  # what these networks compute; an option that is not there has this value
    "mapping_lrmul": 0.01,
    "mapping_nonlinearity": "lrelu",
    "nonlinearity": "lrelu",
    "normalize_latents": True,
    "use_wscale": True,
    "use_styles": True,
    "use_noise": True,
    "const_input_layer": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "mbstd_num_features": 1,
}
_KNOWN = {  # read here or off the shapes of tensors, or of no effect on the values of a network
    *_REQUIRED,
    *("latent_size", "label_size", "dlatent_size", "resolution", "num_channels", "mapping_layers", "mapping_fmaps"),
    *("fmap_base", "fmap_decay", "fmap_min", "fmap_max", "architecture", "resample_kernel", "dlatent_avg_beta"),
    *("style_mixing_prob", "truncation_psi", "truncation_cutoff", "randomize_noise", "blur_filter", "conv_clamp"),
    *("mbstd_group_size", "num_fp16_res", "func_name", "synthesis_func", "mapping_func", "cmap_dim"),
}
_FUSED_FROM = 128  # pixels: from here StyleGAN upsamples with transposed convolutions


def matches(data: Any) -> bool:
    """Three network objects with variables."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 3
        and all(isinstance(network, Instance) and network.get("variables") is not None for network in data)
    )


def convert(data: Any, network: str, notes: list[str]) -> Any:
    """The chosen network; Gs is the averaged generator."""
    if network not in NETWORKS:
        raise CheckpointError(f"the checkpoint has no network {network!r}; it has {', '.join(NETWORKS)}.")
    chosen = data[{"G": 0, "D": 1, "G_ema": 2}[network]]
    options = _options(chosen)
    _check_options(options)
    ignored = sorted(set(options) - _KNOWN)
    if ignored:
        notes.append(f"keywords of the checkpoint that this network does not use: {', '.join(ignored)}")
    variables = _variables(chosen)
    if network == "D":
        return _discriminator(variables, options)
    if "synthesis/4x4/Const/StyleMod/weight" in variables:
        return _stylegan(variables, options)
    return _stylegan2(variables, options)


def _check_options(options: Mapping[str, Any]) -> None:
    other = [
        f"{name} is {options[name]!r}, supported is {value!r}"
        for name, value in _REQUIRED.items()
        if name in options and not (isinstance(options[name], (bool, int, float, str)) and options[name] == value)
    ]
    if other:
        raise CheckpointError(f"the networks here compute something else: {'; '.join(other)}.")


def _options(network: Instance) -> dict[str, Any]:
    found = dict(as_dict(network.get("static_kwargs")))
    for nested in _components(network).values():
        found = {**_options(nested), **found}
    return found


def _components(network: Instance) -> dict[str, Instance]:
    components = as_dict(network.get("components")).items()
    return {name: child for name, child in components if isinstance(child, Instance) and child is not network}


def _variables(network: Instance, depth: int = 0) -> dict[str, np.ndarray]:
    if depth > 4:
        raise DamagedCheckpointError("the network's components are nested too deeply.")
    pairs = network.get("variables")
    if not isinstance(pairs, list):
        raise DamagedCheckpointError("the network has no list of variables.")
    found = {}
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise DamagedCheckpointError("a variable is no pair of name and array.")
        if isinstance(pair[1], np.ndarray):
            found[pair[0]] = pair[1]
        elif isinstance(pair[1], (int, float)):
            found[pair[0]] = np.asarray(pair[1], np.float32)
        else:
            raise DamagedCheckpointError(f"the variable {pair[0]} is no array.")
    for name, child in _components(network).items():
        found |= {f"{name}/{key}": value for key, value in _variables(child, depth + 1).items()}
    return found


class _Reader:
    """Variables as tensors in torch's layouts; remembers which were not asked for."""

    def __init__(self, variables: Mapping[str, np.ndarray]):
        self.variables, self.unused = variables, set(variables)

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    def array(self, name: str, dims: int | None = None) -> np.ndarray:
        value = self.variables.get(name)
        if value is None or (dims is not None and value.ndim != dims):
            raise DamagedCheckpointError(f"the checkpoint has no variable {name} with {dims} dimensions.")
        self.unused.discard(name)
        return value

    def plain(self, name: str, dims: int | None = None) -> Tensor:
        return torch.tensor(self.array(name, dims))

    def dense(self, name: str) -> Tensor:
        return torch.tensor(self.array(name, 2).T.copy())

    def convolution(self, name: str, flip: bool = False) -> Tensor:
        value = self.array(name, 4)
        value = value[::-1, ::-1] if flip else value
        return torch.tensor(value.transpose(3, 2, 0, 1).copy())

    def noise(self, index: int) -> Tensor:
        return torch.tensor(self.array(f"synthesis/noise{index}", 4)[0, 0])

    def dense_layer(self, source: str, target: str, bias_gain: float = 1.0) -> dict[str, Tensor]:
        bias = self.plain(f"{source}/bias", 1) * bias_gain
        return {f"{target}.weight": self.dense(f"{source}/weight"), f"{target}.bias": bias}

    def convolution_layer(self, source: str, target: str) -> dict[str, Tensor]:
        found = {f"{target}.weight": self.convolution(f"{source}/weight")}
        return found | ({f"{target}.bias": self.plain(f"{source}/bias", 1)} if f"{source}/bias" in self else {})

    def sizes(self, pattern: str) -> list[int]:
        sizes = sorted({int(m[1]) for m in (re.match(pattern, name) for name in self.variables) if m})
        if not sizes or sizes != [4 * 2**i for i in range(len(sizes))] or len(sizes) > 11:
            raise DamagedCheckpointError(f"the checkpoint has blocks of {sizes} pixels; expected are 4, 8, 16 ...")
        return sizes


def _mapping(reader: _Reader, bias_gain: float = 1.0) -> dict[str, Tensor]:
    tensors = {"mapping.w_avg": reader.plain("dlatent_avg", 1)}
    for index in range(count_blocks(reader.variables, "mapping/Dense{}/weight")):
        tensors |= reader.dense_layer(f"mapping/Dense{index}", f"mapping.fc{index}", bias_gain)
    if "mapping/LabelEmbed/weight" in reader:
        tensors |= reader.dense_layer("mapping/LabelEmbed", "mapping.embed")
    if "mapping/LabelConcat/weight" in reader:
        raise CheckpointError(
            "the generator embeds labels as TensorFlow's StyleGAN does (LabelConcat); not supported."
        )
    return tensors


def _modulated(reader: _Reader, source: str, target: str, up: bool = False) -> dict[str, Tensor]:
    return {
        f"{target}.weight": reader.convolution(f"{source}/weight", flip=up),
        f"{target}.bias": reader.plain(f"{source}/bias", 1),
        f"{target}.affine.weight": reader.dense(f"{source}/mod_weight"),
        f"{target}.affine.bias": reader.plain(f"{source}/mod_bias", 1) + 1,
    }


def _stylegan2(variables: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Any:
    reader = _Reader(variables)
    tensors = _mapping(reader)
    sizes = reader.sizes(r"synthesis/(\d+)x\1/Conv")
    for index, size in enumerate(sizes):
        source, target = f"synthesis/{size}x{size}", f"synthesis.b{size}"
        layers = [("Conv0_up", "conv0", 2 * index - 1), ("Conv1", "conv1", 2 * index)]
        if size == 4:
            tensors["synthesis.b4.const"] = reader.plain(f"{source}/Const/const", 4)[0]
            layers = [("Conv", "conv1", 0)]
        for own, name, noise in layers:
            tensors |= _modulated(reader, f"{source}/{own}", f"{target}.{name}", up=name == "conv0")
            tensors[f"{target}.{name}.noise_strength"] = reader.plain(f"{source}/{own}/noise_strength", 0)
            tensors[f"{target}.{name}.noise_const"] = reader.noise(noise)
        for own in ("ToRGB", "ToRGB_lod0") if size == sizes[-1] else ("ToRGB",):
            if f"{source}/{own}/weight" in reader:
                tensors |= _modulated(reader, f"{source}/{own}", f"{target}.torgb")
        if f"{source}/Skip/weight" in reader:
            tensors[f"{target}.skip.weight"] = reader.convolution(f"{source}/Skip/weight", flip=True)
    config = generator_config(tensors)
    config |= {
        "resample_filter": _taps(options),
        "conv_clamp": conv_clamp(options.get("conv_clamp")),
        "w_avg_beta": w_avg_beta(options.get("dlatent_avg_beta")),
    }
    return build_model(StyleGAN2Generator, config, tensors, filters(config))


def _discriminator(variables: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Any:
    reader = _Reader(variables)
    if any(name.startswith("mapping/") for name in variables):
        raise CheckpointError("conditional discriminators of TensorFlow pickles are not supported; use G_ema.")
    tensors: dict[str, Tensor] = {}
    sizes = reader.sizes(r"(\d+)x\1/")
    for size in sizes[1:]:
        for own, name in (("FromRGB", "fromrgb"), ("Conv0", "conv0"), ("Conv1_down", "conv1"), ("Skip", "skip")):
            if f"{size}x{size}/{own}/weight" in reader:
                tensors |= reader.convolution_layer(f"{size}x{size}/{own}", f"b{size}.{name}")
    tensors |= reader.convolution_layer("4x4/Conv", "b4.conv")
    if "4x4/FromRGB/weight" in reader:
        tensors |= reader.convolution_layer("4x4/FromRGB", "b4.fromrgb")
    tensors |= reader.dense_layer("4x4/Dense0", "b4.fc") | reader.dense_layer("Output", "b4.out")
    unknown = {name for name in reader.unused if name != "lod"}
    if unknown:
        raise CheckpointError(
            f"the discriminator has variables that are not supported: {', '.join(sorted(unknown)[:5])}."
        )
    config = discriminator_config(tensors)
    if tensors["b4.out.weight"].shape[0] != 1:
        raise CheckpointError("discriminators with class outputs are not supported; use G_ema.")
    config |= {"resample_filter": _taps(options), "conv_clamp": conv_clamp(options.get("conv_clamp"))}
    has_statistics = tensors["b4.conv.weight"].shape[1] > config["channels"][0]
    group = number(options.get("mbstd_group_size", 4), "mbstd_group_size", 1, 1024)
    config["mbstd_group_size"] = int(group) if has_statistics else 1
    return build_model(StyleGAN2Discriminator, config, tensors, filters(config))


def _stylegan(variables: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Any:
    """StyleGAN's fully connected layers scale by the gain before the bias: lrelu(g x + b) = g lrelu(x + b / g)."""
    reader = _Reader(variables)
    tensors = _mapping(reader, bias_gain=1 / math.sqrt(2))
    sizes = reader.sizes(r"synthesis/(\d+)x\1/Conv")
    channels = []
    for index, size in enumerate(sizes):
        source, target = f"synthesis/{size}x{size}", f"synthesis.b{size}"
        names = ("Const", "Conv") if size == 4 else ("Conv0_up", "Conv1")
        if size == 4:
            tensors["synthesis.b4.const"] = reader.plain(f"{source}/Const/const", 4)[0]
        else:
            flip = size >= _FUSED_FROM
            tensors[f"{target}.conv0.weight"] = reader.convolution(f"{source}/Conv0_up/weight", flip=flip)
        tensors[f"{target}.conv1.weight"] = reader.convolution(f"{source}/{names[1]}/weight")
        for part, name in enumerate(names):
            style = f"{target}.style{part}"
            tensors[f"{style}.noise_strength"] = reader.plain(f"{source}/{name}/Noise/weight", 1)
            tensors[f"{style}.noise_const"] = reader.noise(2 * index + part)
            tensors[f"{style}.bias"] = reader.plain(f"{source}/{name}/bias", 1)
            tensors |= reader.dense_layer(f"{source}/{name}/StyleMod", f"{style}.affine")
        channels.append(width_entry(*(len(tensors[f"{target}.style{part}.bias"]) for part in (0, 1))))
    tensors |= reader.convolution_layer("synthesis/ToRGB_lod0", "synthesis.torgb")
    config: dict[str, Any] = {
        "resolution": sizes[-1],
        "image_channels": len(tensors["synthesis.torgb.bias"]),
        "z_dim": tensors["mapping.fc0.weight"].shape[1],
        "w_dim": len(tensors["mapping.w_avg"]),
        "mapping_layers": count_blocks(reader.variables, "mapping/Dense{}/weight"),
        "channels": tuple(channels),
        "resample_filter": _checked_taps(options.get("blur_filter", (1, 2, 1))),
        "w_avg_beta": w_avg_beta(options.get("dlatent_avg_beta")),
    }
    blur, unused = blur_kernel(config["resample_filter"]), blur_kernel(TAPS)  # convolutions hold an unused one
    inner = ("conv0.resample_filter", "conv1.resample_filter", "torgb.resample_filter")
    return build_model(StyleGANGenerator, config, tensors, lambda name: unused if name.endswith(inner) else blur)


def _taps(options: Mapping[str, Any]) -> tuple[float, ...]:
    return _checked_taps(options.get("resample_kernel") or TAPS)


def _checked_taps(taps: Any) -> tuple[float, ...]:
    if not isinstance(taps, (list, tuple)) or not 1 <= len(taps) <= 32:
        raise DamagedCheckpointError(f"the low-pass filter is {taps!r}; allowed are up to 32 numbers.")
    return tuple(number(tap, "filter tap", -1e6, 1e6) for tap in taps)
