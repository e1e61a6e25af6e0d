# SPDX-License-Identifier: Apache-2.0
"""Name -> object lookup and the one "unknown name" error; class name -> what is known of a class."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
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
    raise ValueError(f"Unknown {kind} {name!r}.{suggestion(registry, name)} Available: {', '.join(sorted(registry))}.")


def of_class(registry: Mapping[str, Any], cls: type) -> Any:
    """Entry of the name of ``cls`` or of the nearest base class that has one; None if none has.

    Example:
        >>> of_class({"int": "number"}, bool)
        'number'
    """
    return next((registry[base.__name__] for base in cls.__mro__ if base.__name__ in registry), None)


def suggestion(names: Iterable[str], name: str) -> str:
    """A question with the nearest of ``names``, after a space; "" if none is near.

    Example:
        >>> suggestion(["sqrt", "log1p"], "sqr")
        " Did you mean 'sqrt'?"
    """
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
