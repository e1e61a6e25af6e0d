# SPDX-License-Identifier: Apache-2.0
"""Generators and discriminators as diffusers models."""

from .stylegan2 import StyleGAN2Generator
from .stylegan2_discriminator import StyleGAN2Discriminator


ARCHITECTURES = {
    "stylegan2": StyleGAN2Generator,
    "stylegan2_discriminator": StyleGAN2Discriminator,
}
