# SPDX-License-Identifier: Apache-2.0
"""Seeds for torch generators. The CPU generator uses only the low 32 bits of its seed, so these are 32-bit numbers."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int) -> int:
    """A 32-bit seed that depends on all ``parts`` (seed, epoch, step, process, ...).

    Example:
        >>> derive_seed(0, 1) != derive_seed(1, 0)
        True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")


def sample_generators(
    seed: int, count: int, start: int = 0, device: str | torch.device = "cpu"
) -> list[torch.Generator]:
    """One random generator per image: image i depends on ``(seed, i)`` only, not on the batch or the process.

    Within a seed no two images share a generator; the sequences of small seeds lie millions of images apart.

    Example:
        >>> a, b = sample_generators(0, 2), sample_generators(0, 1, start=1)
        >>> torch.equal(torch.randn(3, generator=a[1]), torch.randn(3, generator=b[0]))
        True
    """
    origin = seed * 0x9E3779B1  # 2**32 / golden ratio spreads consecutive seeds
    return [torch.Generator(device).manual_seed((origin + i) % 2**32) for i in range(start, start + count)]
