# SPDX-License-Identifier: Apache-2.0
"""Values that a shell completes. Registries are read from their source, because importing them takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
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


def _starting(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _of(file: str, *registries: str) -> Callable[[str], list[str]]:
    return _starting(lambda: (name for registry in registries for name in names_in(file, registry)))


methods = _of("quantization/methods/__init__.py", "METHODS")
studied = _of("studies/compression_config.py", "VARIANTS")
criteria = _of("pruning/criteria/__init__.py", "CRITERIA")
scalings = _of("refine/scalings.py", "SCALINGS")
extractors = _of("evaluation/extractors/__init__.py", "EXTRACTORS")
metrics = _of("metrics/__init__.py", "METRICS")
measured = _of("metrics/__init__.py", "METRICS", "OF_LOGITS", "ALIASES")  # by every name that they have
sources = _starting(lambda: ASSETS)  # bundled models and images
models = _starting(lambda: (name for name, file in ASSETS.items() if not Path(file).suffix))
trained = _starting(lambda: scripts("train_"))
finetuned = _starting(lambda: scripts("finetune_"))
bundled_recipes = _starting(recipes)
