# SPDX-License-Identifier: Apache-2.0
"""Values that a shell completes. Registries are read from their source, because importing them takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

from ..assets import ASSETS
from ..core.shipped import recipes, scripts


def names_in(file: str, registry: str) -> list[str]:
    """Keys of the dict ``registry`` in a file of this package, without executing it.

    Example:
        >>> names_in("refine/scalings.py", "SCALINGS")[:2]
        ['sqrt', 'log1p']
    """
    for node in ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(getattr(each, "id", "") == registry for each in targets):
            return [key.value for key in value.keys if isinstance(key, ast.Constant)]
    raise LookupError(f"{file} has no dict {registry}.")


def _of(file: str, registry: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names_in(file, registry) if name.startswith(incomplete)]

    return complete


methods = _of("quantization/methods/__init__.py", "METHODS")
studied = _of("studies/compression_config.py", "VARIANTS")
criteria = _of("pruning/criteria/__init__.py", "CRITERIA")
scalings = _of("refine/scalings.py", "SCALINGS")
extractors = _of("evaluation/extractors/__init__.py", "EXTRACTORS")
metrics = _of("metrics/__init__.py", "METRICS")


def measured(incomplete: str) -> list[str]:
    """Metrics that can be asked for, by every name that they have."""
    names = (
        name for registry in ("METRICS", "OF_LOGITS", "ALIASES") for name in names_in("metrics/__init__.py", registry)
    )
    return [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Bundled models."""
    return [name for name, file in ASSETS.items() if not Path(file).suffix and name.startswith(incomplete)]


def sources(incomplete: str) -> list[str]:
    """Bundled models and images."""
    return [name for name in ASSETS if name.startswith(incomplete)]


def trained(incomplete: str) -> list[str]:
    """Scripts that train."""
    return [name for name in scripts("train_") if name.startswith(incomplete)]


def finetuned(incomplete: str) -> list[str]:
    """Scripts that fine-tune."""
    return [name for name in scripts("finetune_") if name.startswith(incomplete)]


def bundled_recipes(incomplete: str) -> list[str]:
    """Recipes by name."""
    return [name for name in recipes() if name.startswith(incomplete)]
