# SPDX-License-Identifier: Apache-2.0
"""State dicts of BigGAN-PyTorch (G_ema.pth, G.pth, D.pth), TAC-BigGAN and FQ-GAN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models import BigGANDiscriminator, BigGANGenerator
from .build import build_model, count_blocks, shape_of
from .errors import CheckpointError, DamagedCheckpointError


LICENSE = "unknown (code MIT)"
_CODEBOOK = re.compile(r"blocks\.(\d+)\.1\.(embed|embed_avg|cluster_size)")
_SN_EPS = 1e-6  # only matters for weights that are zero


def matches(data: Any) -> bool:
    """A state dict with this code's spectral norm buffers."""
    return isinstance(data, dict) and any(
        isinstance(key, str) and re.fullmatch(r"blocks\.0\.0\.conv1\.u0", key) for key in data
    )


def convert(data: Mapping[str, Any], network: str, notes: list[str]):
    """The network in the file: a generator or a discriminator, whatever ``network`` says of it."""
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()):
        raise DamagedCheckpointError("the state dict holds something that is no tensor.")
    tensors = {key.replace(".bn.stored_", ".stored_"): value for key, value in data.items()}
    tensors = {key: value for key, value in tensors.items() if not key.endswith("accumulation_counter")}
    if any(re.fullmatch(r"blocks\.\d+\.0\.conv4\.weight", key) for key in tensors):
        raise CheckpointError(
            "BigGAN-deep in the layout of BigGAN-PyTorch is not supported; pytorch-pretrained-biggan's is."
        )
    is_generator = "output_layer.2.weight" in tensors
    if is_generator != (network != "D"):
        raise CheckpointError(
            f"the file holds a {'generator' if is_generator else 'discriminator'}; network={network!r} asks for the other: "
            "BigGAN-PyTorch has one file per network (G_ema.pth, G.pth, D.pth)."
        )
    return _generator(tensors) if is_generator else _discriminator(tensors, notes)


def _attention(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    found = [re.fullmatch(r"blocks\.(\d+)\.1\.gamma", key) for key in tensors]
    return tuple(sorted(int(m[1]) for m in found if m))


def _widths(tensors: Mapping[str, Tensor]) -> list:
    widths = []
    for index in range(count_blocks(tensors, "blocks.{}.0.conv1.weight")):
        hidden = shape_of(tensors, f"blocks.{index}.0.conv1.weight", 4)[0]
        out = shape_of(tensors, f"blocks.{index}.0.conv2.weight", 4)[0]
        widths.append(out if hidden == out else (hidden, out))
    return widths


def _generator(tensors: dict[str, Tensor]):
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


def _discriminator(tensors: dict[str, Tensor], notes: list[str]):
    codebooks = [key for key in tensors if _CODEBOOK.fullmatch(key)]
    if codebooks:  # FQ-GAN: the codebook stands between a block and its attention
        blocks = sorted({key.split(".")[1] for key in codebooks}, key=int)
        notes.append(f"feature quantization after blocks {', '.join(blocks)}: the codebooks are left out")
        moved = {f"blocks.{index}.2.": f"blocks.{index}.1." for index in blocks}
        tensors = {
            next((new + key.removeprefix(old) for old, new in moved.items() if key.startswith(old)), key): value
            for key, value in tensors.items()
            if key not in codebooks
        }
    widths = _widths(tensors)
    head = "tac" if "linear_mi.weight" in tensors else "projection" if "embed.weight" in tensors else "none"
    classes = {"tac": "linear_mi.weight", "projection": "embed.weight"}.get(head)
    halvings = {4: 2}.get(len(widths), len(widths) - 1)  # four blocks: the network for 32 pixels
    config = {
        "resolution": 32 if len(widths) == 4 else 4 * 2**halvings,
        "image_channels": shape_of(tensors, "blocks.0.0.conv1.weight", 4)[1],
        "num_classes": shape_of(tensors, classes, 2)[0] if classes else 0,
        "channels": tuple(widths),
        "attention_blocks": _attention(tensors),
        "head": head,
        "sn_eps": _SN_EPS,
    }
    return build_model(BigGANDiscriminator, config, tensors)
