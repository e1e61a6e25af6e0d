# SPDX-License-Identifier: Apache-2.0
"""Lets ``evaluate.load("NAME")`` find our modules where hf_ganzip is imported, without copies and without the Hub."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from ..core.shipped import metric_folders


def register(loading: Any) -> None:
    """Wrap the search of ``evaluate.loading``; harmless when repeated.

    A bare name of ours is ours, on the Hub or not, so that a number does not depend on the connection. A folder of
    that name in the working directory comes first, as in `evaluate`; ``revision=``, ``module_type=`` of another kind,
    and ids with a namespace ("evaluate-metric/NAME") go to the Hub.
    """
    search = loading.evaluation_module_factory
    if hasattr(search, "of_hf_ganzip"):
        return

    @functools.wraps(search)
    def search_ours(path: str, module_type: str | None = None, revision: Any = None, *args: Any, **kwargs: Any) -> Any:
        ours = metric_folders() if module_type in (None, "metric") and revision is None else {}
        if path not in ours or os.path.isfile(os.path.join(path, f"{path}.py")):
            return search(path, module_type, revision, *args, **kwargs)
        file = ours[path] / f"{path}.py"
        return loading.ImportableModule(_imported(path, file), hashlib.sha256(file.read_bytes()).hexdigest())

    search_ours.of_hf_ganzip = True  # type: ignore[attr-defined]
    loading.evaluation_module_factory = search_ours


def _imported(name: str, file: Path) -> str:
    """Name in ``sys.modules`` of a module that is no package's in a checkout."""
    module_name = f"hf_ganzip.metrics_hub.{name}.{name}"  # where a wheel has it
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[module_name] = module
    return module_name
