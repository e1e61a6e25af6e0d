# SPDX-License-Identifier: Apache-2.0
"""Name -> object lookup and the one "unknown name" error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


def lookup(registry: Mapping[str, Any], name: Any, kind: str) -> Any:
    """Return ``registry[name]``; anything that is not a string is returned as it is.

    Raises:
        ValueError: Unknown name; the message suggests the nearest one and lists the choices.

    Example:
        >>> lookup({"sqrt": abs}, "sqr", "scaling")
        Traceback (most recent call last):
        ValueError: Unknown scaling 'sqr'. Did you mean 'sqrt'? Available: sqrt.
    """
    if not isinstance(name, str):
        return name
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(sorted(registry))}.")
