# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: methods, packed storage, packed layers."""

from .config import QuantizeConfig
from .methods import METHODS
from .packed import set_compute_
from .quantize import dequantize_, quantize_
from .sensitivity import SensitivityReport, sensitivity


__all__ = [
    "METHODS",
    "QuantizeConfig",
    "SensitivityReport",
    "dequantize_",
    "quantize_",
    "sensitivity",
    "set_compute_",
]
