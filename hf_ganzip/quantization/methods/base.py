# SPDX-License-Identifier: Apache-2.0
"""The method that a calibrated method starts from."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...core.registry import lookup


def base_method(base: Any, calibrated: bool = False) -> Any:
    """The method object for a name in ``METHODS`` or for itself.

    Args:
        base: Name or object.
        calibrated: Accept methods that are calibrated themselves.

    Raises:
        ValueError: An unknown name, or a method that splits channels or must not be calibrated.
    """
    from . import METHODS

    found = lookup(METHODS, base, "quantization method")
    found = found() if isinstance(found, type) else found
    if hasattr(found, "quantize_channels") or (hasattr(found, "calibrate") and not calibrated):
        raise ValueError(
            f"base is {base!r}; allowed are methods that look at single rows, such as codebook or mse_clip."
        )
    return found


def with_integer_levels(method: Any) -> Any:
    """``method`` with levels that are int8 integers times a scale, where it is free to choose them: "auto", and
    "mse_clip" by itself or as a base.
    """
    from . import METHODS

    if isinstance(method, METHODS["auto"]) or method == METHODS["mse_clip"]():
        return METHODS["mse_clip"](levels="integers")
    if getattr(method, "base", None) in ("mse_clip", "auto"):
        return dataclasses.replace(method, base=METHODS["mse_clip"](levels="integers"))
    return method


def row_method(method: Any) -> Any:
    """What a calibrated method starts from in the end; other methods are returned as they are."""
    while hasattr(method, "calibrate"):
        method = base_method(getattr(method, "base", None) or "codebook", calibrated=True)
    return method
