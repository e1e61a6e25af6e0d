# SPDX-License-Identifier: Apache-2.0
"""Put our `evaluate` modules where ``evaluate.load("NAME")`` finds them without the Hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from ..shipped import shipped


def metric_folders() -> dict[str, Path]:
    """Name -> folder of every module, in the wheel or in a source checkout."""
    files = sorted(shipped("metrics_hub").glob("*/*.py"))
    return {path.parent.name: path.parent for path in files if path.stem == path.parent.name}


def install_metrics() -> dict[str, Path]:
    """Copy every module into the cache that ``evaluate.load`` falls back to when the Hub has no module of that name.

    Returns:
        Name -> folder written, ``HF_MODULES_CACHE/evaluate_modules/metrics/evaluate-metric--NAME/SHA256``. Installing again
        changes nothing.

    Raises:
        ImportError: `evaluate` is missing.
    """
    try:
        from evaluate.loading import init_dynamic_modules
    except ImportError as error:
        raise ImportError('Installing metrics needs evaluate: pip install "hf_ganzip[metrics]".') from error
    cache = Path(init_dynamic_modules(), "metrics")
    return {
        name: _install(name, folder, cache / f"evaluate-metric--{name}") for name, folder in metric_folders().items()
    }


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
