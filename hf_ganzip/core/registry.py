# SPDX-License-Identifier: Apache-2.0
"""Name -> object lookup and the one "unknown name" error; class name -> what is known of a class."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar


T = TypeVar("T")


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


def named_options(cls: type[T]) -> type[T]:
    """Class decorator for options: a keyword that the class does not take is answered with the nearest that it takes.

    Example:
        >>> @named_options
        ... class Options:
        ...     def __init__(self, bits=4):
        ...         self.bits = bits
        >>> Options(bit=3)
        Traceback (most recent call last):
        TypeError: Options has no option 'bit'. Did you mean 'bits'? Available: bits.
    """
    initialize = cls.__init__
    names = [name for name in inspect.signature(initialize).parameters if name != "self"]

    @functools.wraps(initialize)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in names:
                raise TypeError(
                    f"{cls.__name__} has no option {name!r}.{suggestion(names, name)} Available: {', '.join(names)}."
                )
        initialize(self, *args, **options)

    cls.__init__ = checked  # type: ignore[method-assign]
    return cls


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
