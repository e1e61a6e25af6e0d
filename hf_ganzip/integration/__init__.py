# SPDX-License-Identifier: Apache-2.0
"""How diffusers and transformers come to know ``quant_method: "ganzip"``."""

from .config import FORMAT_VERSION, GanzipConfig
from .diffusers import GanzipQuantizer, attach, detach, origin, register


__all__ = ["FORMAT_VERSION", "GanzipConfig", "GanzipQuantizer", "attach", "detach", "origin", "register"]
