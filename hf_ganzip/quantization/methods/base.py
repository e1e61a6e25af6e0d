# SPDX-License-Identifier: Apache-2.0
"""The method that a calibrated method starts from."""

from __future__ import annotations

from typing import Any

from ...registry import lookup


def base_method(base: Any) -> Any:
    """The method object for a name in ``METHODS`` or for itself.

    Raises:
        ValueError: An unknown name, or a method that is calibrated itself or splits channels.
    """
    from . import METHODS

    found = lookup(METHODS, base, "quantization method")
    found = found() if isinstance(found, type) else found
    if hasattr(found, "calibrate") or hasattr(found, "quantize_channels"):
        raise ValueError(
            f"base is {base!r}; allowed are methods that look at single rows, such as codebook or mse_clip."
        )
    return found


def row_method(method: Any) -> Any:
    """What a calibrated method starts from; other methods are returned as they are."""
    return base_method(getattr(method, "base", None) or "codebook") if hasattr(method, "calibrate") else method
