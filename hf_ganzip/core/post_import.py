# SPDX-License-Identifier: Apache-2.0
"""Run a callback when a module is first imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


_callbacks: dict[str, Callable[[], object]] = {}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        callback = _callbacks.pop(name, None)  # popped first: the search below comes back here
        if callback is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_call(module: ModuleType) -> None:
            try:
                execute(module)
            except BaseException:
                _callbacks.setdefault(name, callback)  # for the next attempt
                raise
            callback()

        spec.loader.exec_module = execute_then_call  # type: ignore[method-assign]
        return spec


def when_imported(name: str, callback: Callable[[], object]) -> None:
    """Call ``callback`` right after module ``name`` was imported; at once if it already is."""
    if name in sys.modules:
        callback()
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _callbacks[name] = callback
