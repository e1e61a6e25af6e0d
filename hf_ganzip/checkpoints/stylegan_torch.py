# SPDX-License-Identifier: Apache-2.0
"""Official torch pickles of StyleGAN2-ADA and StyleGAN3: a dict of G, D and G_ema, with their source text (ignored)."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from ..models import StyleGAN2Discriminator, StyleGAN2Generator, StyleGAN3Generator
from .build import as_dict, build_model, conv_clamp, module_tensors, number, shape_of, submodule, w_avg_beta
from .pickle_reader import CheckpointError, DamagedCheckpointError, Instance
from .stylegan2_names import discriminator_config, generator_config, mapping_config


NETWORKS = ("G_ema", "G", "D")
LICENSE = "nvidia-source-code-license-nc"
_LAYER = re.compile(r"synthesis\.L(\d+)_(\d+)_(\d+)\.weight")


def matches(data: Any) -> bool:
    """A dict of which a network is a pickled torch module."""
    return isinstance(data, dict) and any(_is_network(data.get(name)) for name in NETWORKS)


def convert(data: dict[str, Any], network: str, notes: list[str]) -> Any:
    """The chosen network."""
    chosen: Any = data.get(network)
    if not _is_network(chosen):
        present = [name for name in NETWORKS if _is_network(data.get(name))]
        raise CheckpointError(f"the checkpoint has no network {network!r}; it has {', '.join(present)}.")
    tensors = module_tensors(chosen)
    if network == "D":
        return _discriminator(chosen, tensors)
    if any(_LAYER.fullmatch(name) for name in tensors):
        return _stylegan3(chosen, tensors)
    return _stylegan2(chosen, tensors)


def _is_network(value: Any) -> bool:
    return isinstance(value, Instance) and isinstance(value.get("_modules"), dict)


def _stylegan2(network: Instance, tensors: dict[str, Tensor]) -> Any:
    config = generator_config(tensors)
    mapping = submodule(network, "mapping")
    _check_learning_rate(submodule(mapping, "fc0"), tensors["mapping.fc0.weight"].shape[1])
    config["conv_clamp"] = conv_clamp(submodule(network, "synthesis.b4.conv1").get("conv_clamp"))
    config["w_avg_beta"] = w_avg_beta(mapping.get("w_avg_beta"))
    return build_model(StyleGAN2Generator, config, tensors)


def _discriminator(network: Instance, tensors: dict[str, Tensor]) -> Any:
    config = discriminator_config(tensors)
    config["conv_clamp"] = conv_clamp(submodule(network, f"b{config['resolution']}.conv0").get("conv_clamp"))
    epilogue = submodule(network, "b4")
    extra = shape_of(tensors, "b4.conv.weight", 4)[1] - config["channels"][0]
    if extra not in (0, 1):
        raise CheckpointError(f"the minibatch statistics have {extra} channels; supported is 1.")
    group = submodule(epilogue, "mbstd").get("group_size") if extra else 1
    config["mbstd_group_size"] = int(number(4 if group is None else group, "mbstd_group_size", 1, 1024))
    return build_model(StyleGAN2Discriminator, config, tensors)


def _stylegan3(network: Instance, tensors: dict[str, Tensor]) -> Any:
    found = sorted((int(m[1]), int(m[2]), int(m[3]), m[0]) for m in map(_LAYER.fullmatch, tensors) if m)
    names = [entry[3].removesuffix(".weight") for entry in found]
    if [entry[0] for entry in found] != list(range(len(found))):
        raise DamagedCheckpointError("the synthesis layers are not numbered from 0.")
    synthesis, mapping = submodule(network, "synthesis"), submodule(network, "mapping")
    options = {**_options(network), **_options(synthesis)}
    layers = [submodule(network, name) for name in names]
    band = ("out_sampling_rate", "out_cutoff", "out_half_width")
    stated = [[_number(layer, key, 1e-3, 2**20) for key in band] for layer in layers]
    w_dim = shape_of(tensors, f"{names[0]}.affine.weight", 2)[1]
    config = mapping_config(tensors, w_dim) | {
        "resolution": found[-1][1],
        "image_channels": found[-1][2],
        "channels": tuple(shape_of(tensors, f"{name}.weight", 4)[1] for name in names),
        "num_frequencies": shape_of(tensors, "synthesis.input.freqs", 2)[0],
        "num_layers": len(names) - 1,
        "num_critical": int(_number(synthesis, "num_critical", 1, len(names), 2)),
        "margin_size": int(_number(synthesis, "margin_size", 0, 1000, 10)),
        "output_scale": _number(synthesis, "output_scale", 1e-6, 1e6, 0.25),
        "kernel_size": shape_of(tensors, f"{names[0]}.weight", 4)[2],
        "radial_filters": any(f"{n}.down_filter" in tensors and tensors[f"{n}.down_filter"].ndim == 2 for n in names),
        "filter_size": int(_number(options, "filter_size", 1, 64, 6)),
        "lrelu_upsampling": int(_number(options, "lrelu_upsampling", 1, 16, 2)),
        "conv_clamp": conv_clamp(layers[0].get("conv_clamp")),
        "magnitude_ema_beta": _number(layers[0], "magnitude_ema_beta", 0, 1, 0.999),
        "w_avg_beta": w_avg_beta(mapping.get("w_avg_beta")),
    }
    for name in ("first_cutoff", "first_stopband", "last_stopband_rel"):
        if options.get(name) is not None:
            config[name] = _number(options, name, 1e-3, 1e6)
    _check_learning_rate(submodule(mapping, "fc0"), tensors["mapping.fc0.weight"].shape[1])
    model = build_model(StyleGAN3Generator, config, tensors)
    bands = [(b.sampling_rate, b.cutoff, b.half_width) for b in model.synthesis.bands]
    if not all(math.isclose(*pair, rel_tol=1e-6) for own, layer in zip(bands, stated) for pair in zip(own, layer)):
        raise CheckpointError("the layers' cutoffs are none that these options give; this variant is not supported.")
    return model


def _options(module: Instance) -> dict[str, Any]:
    found = dict(as_dict(module.get("_init_kwargs")))
    return {**as_dict(found.pop("synthesis_kwargs", None)), **found}


def _number(source: Instance | dict[str, Any], name: str, low: float, high: float, default: Any = None) -> float:
    return number(source.get(name, default), name, low, high)


def _check_learning_rate(layer: Instance, inputs: int) -> None:
    gain = layer.get("weight_gain")
    if gain is not None and abs(number(gain, "weight_gain", 0, 1e6) * inputs**0.5 - 0.01) > 1e-6:
        raise CheckpointError(
            "the mapping network has a learning rate multiplier other than 0.01, which is not supported."
        )
