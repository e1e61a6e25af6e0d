# SPDX-License-Identifier: Apache-2.0
"""What extractors of foreign networks share: their digest, their weights, RGB images of one size."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_digest(network: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors of a network, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def downloading(extractor: str, what: str = "FILE") -> Iterator[None]:
    """Say what to do where the weights of an extractor cannot be downloaded; ``what`` can be named in their place.

    Raises:
        ConnectionError: In place of another OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConnectionError(
            f"the weights of {extractor} cannot be downloaded ({error}); name a {what.lower()} of them: "
            f"{extractor.partition(':')[0]}:{what}."
        ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a PyTorch file that holds nothing else; no code in it runs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds other objects than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}.")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no file of weights that can be read without running code: {error}") from error


def rgb(images: Tensor, where: str) -> Tensor:
    """uint8 images (B, 1 or 3, H, W) with three channels; grey ones are repeated."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"extractor {where!r}: images have shape {shape}; allowed is (B, 1 or 3, H, W).")
    return images.expand(-1, 3, -1, -1)


def imagenet_input(images: Tensor, size: int, device: torch.device) -> Tensor:
    """uint8 RGB images (B, 3, H, W) to normalized float32 (B, 3, size, size), by antialiased bilinear resizing."""
    x = images.to(device, torch.float32) / 255
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std
