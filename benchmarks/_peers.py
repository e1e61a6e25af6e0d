# SPDX-License-Identifier: Apache-2.0
"""Quantizers of others, where they are installed: of single matrices (outputs, rest), and of whole models by their
public calls.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch

from hf_ganzip.evaluation.cost import held_bytes
from hf_ganzip.quantization.plan import QUANTIZABLE


def sdnq(weight: torch.Tensor, bits: int, codebook: bool = False, group_size: int = -1) -> tuple[torch.Tensor, int]:
    """Dequantized matrix and stored bits of SDNQ's unsigned format; group_size -1: one scale per row, 0: its default
    groups.
    """
    from sdnq.quantizer import sdnq_quantize_layer_weight

    dequantizer, parts = sdnq_quantize_layer_weight(
        weight, "Linear", f"uint{bits}", group_size=group_size, use_codebook=codebook
    )
    tensors = {name: tensor for name, tensor in parts.items() if isinstance(tensor, torch.Tensor)}
    scales = sum(tensor.numel() * 32 for name, tensor in tensors.items() if name != "weight")
    found = dequantizer(**parts, skip_quantized_matmul=True, skip_compile=True)
    return found.float().reshape(weight.shape), bits * weight.numel() + scales


def torchao(weight: torch.Tensor, bits: int, group_size: int | None = None) -> tuple[torch.Tensor, int]:
    """Dequantized matrix and stored bits (if the codes were packed) of torchao's intx weight-only format;
    group_size None, or one that does not divide: a scale per row.
    """
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

    outputs, inputs = weight.shape
    grouped = group_size is not None and inputs % group_size == 0
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False))
    layer[0].weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    granularity = PerGroup(group_size) if grouped else PerAxis(0)
    quantize_(layer, IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity))
    scales = weight.numel() // group_size if grouped else outputs
    return layer[0].weight.dequantize().float(), bits * weight.numel() + 32 * scales


MATRICES = {
    "SDNQ row": ("sdnq", sdnq),
    "SDNQ row codebook": ("sdnq", functools.partial(sdnq, codebook=True)),
    "SDNQ groups (default)": ("sdnq", functools.partial(sdnq, group_size=0)),
    "torchao intx": ("torchao", torchao),
}


def by_peer(model, names: Iterable[str], quantize, bits: int):
    """A copy of the model with the peer's weights, and its stored bits per weight."""
    found, stored, weights = copy.deepcopy(model), 0, 0
    with torch.no_grad():
        for name in names:
            weight = found.get_parameter(name)
            values, size = quantize(weight.detach().flatten(1), bits)
            weight.copy_(values.view(weight.shape))
            stored, weights = stored + size, weights + weight.numel()
    return found, stored / weights


def sdnq_model(model, bits: int, **options: Any):
    """A copy quantized by SDNQ, convolutions too, and all bytes that it holds; signed codes from 6 bits on, as its
    documentation recommends.
    """
    from sdnq.quantizer import sdnq_post_load_quant

    dtype = f"{'int' if bits > 5 else 'uint'}{bits}"
    found = sdnq_post_load_quant(copy.deepcopy(model), weights_dtype=dtype, quant_conv=True, **options).eval()
    return found, held_bytes(found)


def torchao_model(model, bits: int, **options: Any):
    """A copy with the weights of torchao's intx format in all linear layers and convolutions (as matrices), and the
    bytes of the model if the codes were packed.
    """
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, QUANTIZABLE)]
    sizes = {name: model.get_parameter(name) for name in names}
    found, stored = by_peer(model, names, functools.partial(torchao, **options), bits)
    count = sum(weight.numel() for weight in sizes.values())
    return found, held_bytes(model) - sum(weight.nbytes for weight in sizes.values()) + round(stored * count / 8)


_NO_KEYS = {"add_skip_keys": False}
_ANY_SIZE = {"minimum_allowed_numel": 0, "minimum_allowed_channel_size": 0}
_SDNQ: dict[str, dict[str, Any]] = {
    "": {},
    " groups of 64": {"group_size": 64},
    " hadamard": {"use_hadamard": True},
    " svd": {"use_svd": True},
    " row": {"group_size": -1},
    " row codebook": {"use_codebook": True, "group_size": -1},
    " row hadamard": {"use_hadamard": True, "group_size": -1},
}


def whole_models() -> dict[str, Callable[..., tuple[Any, int]]]:
    """Name -> function (model, bits) -> (quantized copy, bytes), of the peers that are installed.

    SDNQ by its defaults leaves layers alone that are small or named in a list of its own; "all layers" switches both
    off.
    """
    found: dict[str, Callable[..., tuple[Any, int]]] = {}
    if importlib.util.find_spec("sdnq"):
        for name, options in _SDNQ.items():
            found[f"SDNQ{name}"] = functools.partial(sdnq_model, **options)
            found[f"SDNQ{name}, all layers"] = functools.partial(sdnq_model, **options, **_NO_KEYS, **_ANY_SIZE)
        found["SDNQ row, no list"] = functools.partial(sdnq_model, **_SDNQ[" row"], **_NO_KEYS)
        found["SDNQ row, any size"] = functools.partial(sdnq_model, **_SDNQ[" row"], **_ANY_SIZE)
    if importlib.util.find_spec("torchao"):
        found["torchao intx"] = torchao_model
        found["torchao intx, groups of 32"] = functools.partial(torchao_model, group_size=32)
    return found
