# SPDX-License-Identifier: Apache-2.0
"""Measuring a model: what is compared with what, and under which conditions.

Images and features: `sources`, `streams`, `sampling`, `diffusion_sampling`, `extractors`, `cache`, `sharded`. Figures:
`evaluate` with its `presets`, `validation` (during training), `cost`, `perceptual` (image pairs). What is told of them:
`eval_results`, `plotting`. Against the original: `comparing`.
"""

from __future__ import annotations

from typing import Any

from .extractors import EXTRACTORS, extract_features
from .sources import load_reference


__all__ = ["EXTRACTORS", "extract_features", "load_reference"]


def __getattr__(name: str) -> Any:
    if name != "evaluate_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..evaluate_modules import feature_metric

    return feature_metric  # so metrics that were published or installed in a cache before name it
