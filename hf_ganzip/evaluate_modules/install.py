# SPDX-License-Identifier: Apache-2.0
"""Puts our `evaluate` modules where ``evaluate.load("NAME")`` finds them without the Hub and without hf_ganzip."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

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
