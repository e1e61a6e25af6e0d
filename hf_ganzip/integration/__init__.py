# SPDX-License-Identifier: Apache-2.0
"""How diffusers and transformers come to know ``quant_method: "hf_ganzip"``."""

# This import registers the quantizer; `diffusers` is our module here.
import diffusers.quantizers.auto as _first  # noqa: F401

from .config import GanzipConfig


__all__ = ["GanzipConfig"]
