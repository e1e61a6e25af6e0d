# SPDX-License-Identifier: Apache-2.0
"""Memory alignment of loaded tensors, so that outputs repeat bit by bit."""

from __future__ import annotations

from torch import nn


_ALIGNMENT = 64  # bytes, at which torch's own allocations on CPUs begin


def align_(model: nn.Module) -> None:
    """Copy floating-point CPU tensors that a memory-mapped file left unaligned: kernels round differently on those."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and tensor.is_floating_point() and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()
