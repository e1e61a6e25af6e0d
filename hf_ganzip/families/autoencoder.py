# SPDX-License-Identifier: Apache-2.0
"""Defaults of autoencoders of latent diffusion."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.seeding import derive_seed
from .passes import Pass


if TYPE_CHECKING:
    from diffusers import ModelMixin


_SIDE = 256  # pixels of calibration images, at most


def autoencoder_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last residual block of the decoder, and its output convolution."""
    block = len(model.decoder.up_blocks) - 1
    resnet = len(model.decoder.up_blocks[block].resnets) - 1
    return (f"decoder.up_blocks.{block}.resnets.{resnet}.*", "decoder.conv_out.*")


def autoencoder_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two uniform noise images (2, C, S, S) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    return (torch.rand(shape, generator=generator) * 2 - 1,), {}


def reconstruction_calibration(model: ModelMixin, batch_size: int, seed: int) -> Iterator[Pass]:
    """Reconstructions (B, C, S, S) of smooth random images, encoded (means, nothing is drawn) and decoded; batch i
    depends on (seed, i).

    The images have the spectrum of photographs, amplitudes that fall as 1 / frequency (Field, 1987), and at most 256
    pixels a side. The decoder thus gets latents of the model's own encoder, which are no N(0, I), and the encoder,
    which latents alone would not move, is calibrated, too.
    """
    side = min(model.config.sample_size, _SIDE)
    device, dtype = next((t.device, model.dtype) for t in (*model.parameters(), *model.buffers()))
    for number in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
        images = smooth_images((batch_size, model.config.in_channels, side, side), generator)
        yield functools.partial(_reconstruct, images=images.to(device, dtype))


def smooth_images(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random fields (B, C, H, W) in [-1, 1] with amplitudes 1 / frequency, standard deviation 0.5 before they are cut
    off, and half of the variation common to all channels.
    """
    own, common = (torch.randn(shape[0], count, *shape[2:], generator=generator) for count in (shape[1], 1))
    rows, columns = torch.fft.fftfreq(shape[2])[:, None], torch.fft.rfftfreq(shape[3])
    frequency = (rows.square() + columns.square()).sqrt()
    frequency[0, 0] = 1 / max(shape[2:])  # of the mean
    fields = torch.fft.irfft2(torch.fft.rfft2(own + common) / frequency, s=shape[2:])
    return (0.5 * fields / fields.std()).clamp(-1, 1)


def _reconstruct(model: ModelMixin, images: Tensor) -> Tensor:
    return model(images, return_dict=False)[0]
