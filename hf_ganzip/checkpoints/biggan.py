# SPDX-License-Identifier: Apache-2.0
"""State dicts of BigGAN-PyTorch (G_ema.pth, G.pth, D.pth), TAC-BigGAN and FQ-GAN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models import BigGANDiscriminator, BigGANGenerator
from ..models.base import width_entry
from .build import build_model, checked_state, count_blocks, shape_of
from .codebooks import from_official_state
from .pickle_reader import CheckpointError, DamagedCheckpointError


NETWORKS = ("G_ema", "G", "D")
LICENSE = "unknown (code MIT)"
_CODEBOOK = re.compile(r"blocks\.(\d+)\.1\.(embed|embed_avg|cluster_size)")
_SN_EPS = 1e-6  # only matters for weights that are zero


def matches(data: Any) -> bool:
    """A state dict with this code's spectral norm buffers."""
    return isinstance(data, dict) and "blocks.0.0.conv1.u0" in data


def convert(data: Mapping[str, Any], network: str, notes: list[str]) -> Any:
    """The network in the file, a generator or a discriminator; whether it is averaged the file does not say."""
    if network not in NETWORKS:
        raise CheckpointError(f"there is no network {network!r}; allowed are {', '.join(NETWORKS)}.")
    tensors = {
        key.replace(".bn.stored_", ".stored_"): value
        for key, value in checked_state(data, "the state dict").items()
        if not key.endswith("accumulation_counter")
    }
    if any(re.fullmatch(r"blocks\.\d+\.0\.conv4\.weight", key) for key in tensors):
        raise CheckpointError(
            "BigGAN-deep in the layout of BigGAN-PyTorch is not supported; pytorch-pretrained-biggan's is."
        )
    is_generator = "output_layer.2.weight" in tensors
    if is_generator != (network != "D"):
        raise CheckpointError(
            f"the file holds a {'generator' if is_generator else 'discriminator'}; network={network!r} asks for the "
            "other: BigGAN-PyTorch has one file per network (G_ema.pth, G.pth, D.pth)."
        )
    return _generator(tensors) if is_generator else _discriminator(tensors, notes)


def _attention(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    found = [re.fullmatch(r"blocks\.(\d+)\.1\.gamma", key) for key in tensors]
    return tuple(sorted(int(m[1]) for m in found if m))


def _widths(tensors: Mapping[str, Tensor]) -> list[Any]:
    widths = []
    for index in range(count_blocks(tensors, "blocks.{}.0.conv1.weight")):
        hidden = shape_of(tensors, f"blocks.{index}.0.conv1.weight", 4)[0]
        out = shape_of(tensors, f"blocks.{index}.0.conv2.weight", 4)[0]
        widths.append(width_entry(hidden, out))
    return widths


def _generator(tensors: dict[str, Tensor]) -> Any:
    widths = _widths(tensors)
    bottom = shape_of(tensors, "blocks.0.0.conv1.weight", 4)[1]
    chunk = shape_of(tensors, "linear.weight", 2)[1]
    first, second = shape_of(tensors, "blocks.0.0.bn1.gain.weight", 2)
    shared = shape_of(tensors, "shared.weight", 2) if "shared.weight" in tensors else None
    hierarchical = shared is not None and second == shared[1] + chunk
    config = {
        "resolution": 4 * 2 ** len(widths),
        "image_channels": shape_of(tensors, "output_layer.2.weight", 4)[0],
        "z_dim": chunk * (len(widths) + 1) if hierarchical else chunk,
        "num_classes": shared[0] if shared else first,
        "channels": (bottom, *widths),
        "shared_dim": shared[1] if shared else 0,
        "hierarchical": hierarchical,
        "attention_blocks": _attention(tensors),
        "sn_eps": _SN_EPS,
    }
    return build_model(BigGANGenerator, config, tensors)


def _discriminator(tensors: dict[str, Tensor], notes: list[str]) -> Any:
    tensors, codebooks = _split_codebooks(tensors)
    widths = _widths(tensors)
    head = "tac" if "linear_mi.weight" in tensors else "projection" if "embed.weight" in tensors else "none"
    classes = {"tac": "linear_mi.weight", "projection": "embed.weight"}.get(head)
    config = {
        "resolution": 2 ** (len(widths) + 1),  # also of the network for 32 pixels, whose last two blocks keep the size
        "image_channels": shape_of(tensors, "blocks.0.0.conv1.weight", 4)[1],
        "num_classes": shape_of(tensors, classes, 2)[0] if classes else 0,
        "channels": tuple(widths),
        "attention_blocks": _attention(tensors),
        "head": head,
        "sn_eps": _SN_EPS,
    }
    if not codebooks:
        return build_model(BigGANDiscriminator, config, tensors)
    config["feature_quantizers"] = {
        f"blocks.{index}.0": {"num_codes": shape_of(state, "embed", 2)[1], "preset": "official"}
        for index, state in codebooks.items()
    }
    for index, state in codebooks.items():
        for name, value in from_official_state(state).items():
            tensors[f"codebooks.blocks/{index}/0.{name}"] = value
    notes.append(
        "decay and weight of the feature quantizers are not in the file: set to those of the preset 'official'"
    )
    return build_model(BigGANDiscriminator, config, tensors)


def _split_codebooks(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The plain discriminator, and codebooks by block: FQ-GAN has them between a block (0) and its attention (2)."""
    codebooks: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if found := _CODEBOOK.fullmatch(key):
            codebooks.setdefault(found[1], {})[found[2]] = value
    plain = {}
    for key, value in tensors.items():
        block = key.split(".")[1] if key.startswith("blocks.") else ""
        if block in codebooks and key.startswith(f"blocks.{block}.2."):
            key = f"blocks.{block}.1." + key.split(".", 3)[3]
        elif _CODEBOOK.fullmatch(key):
            continue
        plain[key] = value
    for index, state in codebooks.items():
        if sorted(state) != ["cluster_size", "embed", "embed_avg"]:
            raise DamagedCheckpointError(f"the codebook of block {index} lacks embed, embed_avg or cluster_size.")
    return plain, codebooks
