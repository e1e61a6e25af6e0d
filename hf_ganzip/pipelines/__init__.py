# SPDX-License-Identifier: Apache-2.0
"""Sampling pipelines."""

from .gan import GANPipeline


__all__ = ["GANPipeline"]
