# SPDX-License-Identifier: Apache-2.0
"""diffusers pipelines for models of this library."""

from .gan import GANPipeline
from .translation import ImageTranslationPipeline


__all__ = ["GANPipeline", "ImageTranslationPipeline"]
