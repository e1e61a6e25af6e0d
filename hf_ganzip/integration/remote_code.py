# SPDX-License-Identifier: Apache-2.0
"""Repositories with a module of ours beside the weights: where hf_ganzip is imported its own classes are taken, and
nothing has to be trusted.
"""

from __future__ import annotations

import functools
import importlib
import re
from types import ModuleType
from typing import Any

from ..core.hub import REMOTE_CODE
from ..saved.folder import library_of


def take_own_classes_(module: ModuleType) -> None:
    """Let diffusers take classes of ours from here in place of a repository's module; harmless when repeated."""
    load = module.get_class_from_dynamic_module
    if hasattr(load, "of_hf_ganzip"):
        return

    @functools.wraps(load)
    def load_ours(name: Any, module_file: str, *args: Any, class_name: str | None = None, **kwargs: Any) -> type:
        ours = class_name and re.fullmatch(rf"{REMOTE_CODE}\w+\.py", module_file) and library_of(class_name)
        if not ours:
            return load(name, module_file, *args, class_name=class_name, **kwargs)
        return getattr(importlib.import_module(ours), str(class_name))

    load_ours.of_hf_ganzip = True  # type: ignore[attr-defined]
    module.get_class_from_dynamic_module = load_ours  # type: ignore[attr-defined]
