# SPDX-License-Identifier: Apache-2.0
"""What distillation does with its networks: the layers it compares, a generator that can be wrapped for many
processes, spectral norms.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization.folding import remove_parametrization_
from ..refine.refine import RefineConfig, selection
from .distillation import path_lengths


def published_layers(generator: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Layers whose outputs L_LD compares, and groups of layers whose styles give its directions, as published.

    StyleGAN2: outputs at 16 to 128 pixels, styles of the blocks of 8 to 128; networks of at most 64 pixels: from 8 on.
    StyleGAN3: every second of the layers before the last four, as L2, L4, L6 and L9 of 256 pixels.
    """
    if hasattr(generator.synthesis, "block_resolutions"):
        sizes = [size for size in generator.synthesis.block_resolutions if 8 <= size <= 128]
        least = 16 if max(sizes) > 64 else 8
        groups = tuple((f"synthesis.b{size}.conv0", f"synthesis.b{size}.conv1") for size in sizes)
        return tuple(f"synthesis.b{size}.conv1" for size in sizes if size >= least), groups
    names = [f"synthesis.{name}" for name in generator.synthesis.layer_names[:-1]]
    chosen = tuple(names[round(share * (len(names) - 1))] for share in (2 / 13, 4 / 13, 6 / 13, 9 / 13))
    return chosen, tuple((name,) for name in chosen)


class Tapped(nn.Module):
    """A generator whose forward does what a phase of training needs, so that it can be wrapped for many processes."""

    def __init__(self, generator: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.generator = generator
        self.layers = tuple(layers)

    def styles(self, draw: Mapping[str, Any]) -> Tensor:
        """(B, L, w_dim); from the crossover layer on of a second latent."""
        ws = self.generator.mapping(draw["z"], draw["labels"])
        if draw["mixed"].any():
            other = self.generator.mapping(draw["z2"], draw["labels"])
            after = torch.arange(ws.shape[1], device=ws.device)[None, :] >= draw["crossover"][:, None]
            ws = torch.where((after & draw["mixed"][:, None])[:, :, None], other, ws)
        return ws

    def forward(self, draw: Mapping[str, Any], part: str = "images") -> tuple[Tensor, list[Tensor] | Tensor]:
        """Images (B, C, H, W), and features of shifted pairs (``part="relations"``) or path lengths (``"lengths"``);
        ``"fakes"`` are images for the discriminator's phase.
        """
        ws, noise = self.styles(draw), draw["noise"]
        if part == "lengths":
            images = self._synthesize(ws, noise)
            return images, path_lengths(images, ws, draw["directions_of_images"].to(images))
        if part == "fakes":
            return self._synthesize(ws, noise, **self.generator.discriminator_phase), []
        if part == "images" or not self.layers:
            return self._synthesize(ws, noise), []
        features: list[Tensor] = []
        with contextlib.ExitStack() as hooks:
            for name in self.layers:
                layer = self.generator.get_submodule(name)
                hooks.enter_context(layer.register_forward_hook(lambda _, args, output: features.append(output)))
            images = self._synthesize(torch.cat([ws, ws + draw["shift"][:, None]]), [*noise, *draw["noise2"]])
        return images[: len(ws)], features

    def _synthesize(self, ws: Tensor, noise: Sequence[torch.Generator], **options: Any) -> Tensor:
        return self.generator.synthesize(ws, noise_mode="random", generator=list(noise), **options)


def student_layers(student: nn.Module, teacher: nn.Module, layers: Sequence[str]) -> list[str]:
    """StyleGAN3's names hold widths: the student's layers at the same places."""
    if not hasattr(student.synthesis, "layer_names"):
        return list(layers)
    places = {f"synthesis.{name}": i for i, name in enumerate(teacher.synthesis.layer_names)}
    return [f"synthesis.{student.synthesis.layer_names[places[name]]}" for name in layers]


def add_spectral_norms_(student: nn.Module) -> None:
    """Divide weights that Singular Value Scaling selects by their largest singular value, one iteration a step."""
    for name in selection(student, RefineConfig())[0]:
        owner, _, leaf = name.rpartition(".")
        module = student.get_submodule(owner)
        if module._parameters[leaf].ndim >= 2:
            nn.utils.parametrizations.spectral_norm(module, leaf)


def without_spectral_norms(model: nn.Module) -> nn.Module:
    """The model, or a copy with divided weights where it has norms."""
    if not any(nn.utils.parametrize.is_parametrized(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        remove_parametrization_(module)
    return model
