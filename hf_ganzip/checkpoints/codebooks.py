# SPDX-License-Identifier: Apache-2.0
"""Codebooks of feature quantizers in the layouts of FQ-GAN and of vector-quantize-pytorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor


if TYPE_CHECKING:
    from ..training.feature_quantizer import FeatureQuantizer

_STATE = ("embed", "embed_avg", "cluster_size")


def from_official_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of one official layer (``embed`` and ``embed_avg`` are (C, K) there) as ours."""
    found = {name: state[name] for name in _STATE}
    found |= {name: state[name].T.contiguous() for name in ("embed", "embed_avg")}
    return found | _counters(found["cluster_size"])


def to_official_state(quantizer: FeatureQuantizer) -> dict[str, Tensor]:
    """The inverse of :func:`from_official_state`."""
    turned = {name: getattr(quantizer, name).T.contiguous() for name in ("embed", "embed_avg")}
    return turned | {"cluster_size": quantizer.cluster_size.clone()}


def from_vector_quantize_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``vector_quantize_pytorch.VectorQuantize`` with one codebook as ours."""
    found = {name: state[f"_codebook.{name}"].squeeze(0).clone() for name in _STATE}
    return found | _counters(found["cluster_size"])


def to_vector_quantize_pytorch(quantizer: FeatureQuantizer) -> dict[str, Tensor]:
    """The inverse of :func:`from_vector_quantize_pytorch`."""
    found = {f"_codebook.{name}": getattr(quantizer, name)[None].clone() for name in _STATE}
    return found | {"_codebook.initted": torch.ones(1)}


def _counters(like: Tensor) -> dict[str, Tensor]:
    return {
        "num_updates": torch.zeros([], dtype=torch.int64, device=like.device),
        "initted": torch.ones([], dtype=torch.bool, device=like.device),
    }
