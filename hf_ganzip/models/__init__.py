# SPDX-License-Identifier: Apache-2.0
"""Generators and discriminators as diffusers models."""

from .biggan import BigGANGenerator
from .biggan_discriminator import BigGANDiscriminator
from .stylegan2 import StyleGAN2Generator
from .stylegan2_discriminator import StyleGAN2Discriminator


ARCHITECTURES = {
    "biggan": BigGANGenerator,
    "biggan_discriminator": BigGANDiscriminator,
    "stylegan2": StyleGAN2Generator,
    "stylegan2_discriminator": StyleGAN2Discriminator,
}
