# SPDX-License-Identifier: Apache-2.0
"""Where ``evaluate.load("NAME")`` finds our modules without the Hub: under bare names where hf_ganzip is imported, and,
installed into the cache of `evaluate`, without hf_ganzip.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..core.extras import needed_by
from ..core.shipped import metric_folders


def install_metrics() -> dict[str, Path]:
    """Copy every module into the cache that ``evaluate.load`` falls back to when the Hub has no module of that name.

    Returns:
        Name -> folder written, ``HF_MODULES_CACHE/evaluate_modules/metrics/evaluate-metric--NAME/SHA256``. Installing
        again changes nothing.

    Raises:
        ImportError: `evaluate` is missing.
        ValueError: The cache has a module of one of the names that is not ours; nothing was installed.
    """
    with needed_by("Installing metrics needs evaluate", "metrics"):
        from evaluate.loading import init_dynamic_modules
    cache = Path(init_dynamic_modules(), "metrics")
    targets = {name: cache / f"evaluate-metric--{name}" for name in metric_folders()}
    for name, target in targets.items():
        for file in target.glob(f"*/{name}.py"):
            if "hf_ganzip" not in file.read_text(encoding="utf-8"):
                raise ValueError(
                    f"evaluate has cached a metric {name} that is not of hf_ganzip: {file.parent}. Remove that "
                    f'folder, or leave it: after `import hf_ganzip`, evaluate.load("{name}") is ours without being '
                    "installed. Nothing was installed."
                )
    return {name: _install(name, folder, targets[name]) for name, folder in metric_folders().items()}


def _install(name: str, folder: Path, target: Path) -> Path:
    source = folder / f"{name}.py"
    final = target / hashlib.sha256(source.read_bytes()).hexdigest()
    for package in (target.parent, target):
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
    if not final.is_dir():
        partial = Path(tempfile.mkdtemp(dir=target, prefix="partial-"))
        shutil.copy(source, partial)
        (partial / "__init__.py").touch()
        try:
            partial.rename(final)
        except OSError:  # another process was quicker
            shutil.rmtree(partial)
    os.utime(final / source.name)  # the newest of several versions is loaded
    return final


def find_ours_(loading: Any) -> None:
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
