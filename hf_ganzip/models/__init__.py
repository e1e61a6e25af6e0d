# SPDX-License-Identifier: Apache-2.0
"""Generators and discriminators as diffusers models."""

from .biggan import BigGANGenerator
from .biggan_deep import BigGANDeepGenerator
from .biggan_discriminator import BigGANDiscriminator
from .feature_network import FeatureNetwork  # noqa: F401  (for load_model; no architecture to compress)
from .stylegan import StyleGANGenerator
from .stylegan2 import StyleGAN2Generator
from .stylegan2_discriminator import StyleGAN2Discriminator
from .stylegan3 import StyleGAN3Generator
from .ugatit import UGATITGenerator
from .ugatit_discriminator import UGATITDiscriminator


ARCHITECTURES = {
    "biggan": BigGANGenerator,
    "biggan_deep": BigGANDeepGenerator,
    "biggan_discriminator": BigGANDiscriminator,
    "stylegan": StyleGANGenerator,
    "stylegan2": StyleGAN2Generator,
    "stylegan2_discriminator": StyleGAN2Discriminator,
    "stylegan3": StyleGAN3Generator,
    "ugatit": UGATITGenerator,
    "ugatit_discriminator": UGATITDiscriminator,
}
