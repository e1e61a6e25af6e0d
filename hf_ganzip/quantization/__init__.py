# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: methods, packed storage, packed layers."""

from .config import QuantizeConfig
from .methods import METHODS
from .packed import set_compute_
from .quantize import dequantize_, quantize_


__all__ = ["METHODS", "QuantizeConfig", "dequantize_", "quantize_", "set_compute_"]
