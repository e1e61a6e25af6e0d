# SPDX-License-Identifier: Apache-2.0
"""Singular Value Scaling: refine pruned weights before fine-tuning."""

from .refine import RefineConfig, RefinedTensor, RefineReport, refine_
from .scalings import SCALINGS, Scaling
from .singular_values import scale_singular_values


__all__ = [
    "SCALINGS",
    "RefineConfig",
    "RefineReport",
    "RefinedTensor",
    "Scaling",
    "refine_",
    "scale_singular_values",
]
