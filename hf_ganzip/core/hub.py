# SPDX-License-Identifier: Apache-2.0
"""Saved models by name: a local folder, a bundled name or a Hub id."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

from ..assets import ASSETS, resolve
from .components import choose_components
from .registry import lookup


HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only", "subfolder")
REMOTE_CODE = "hf_ganzip_"  # begins the names of modules beside published weights; not executed where this package is
CODE_FILES = (f"{REMOTE_CODE}*.py", f"*/{REMOTE_CODE}*.py")
MODEL_FILES = ("*.json", "*.safetensors", *CODE_FILES)
_WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
# Of a pipeline only what from_pretrained opens: repositories hold variants and the same weights in one file, too.
PIPELINE_FILES = (
    *("*.json", "*.txt", "*.model", "README.md", *CODE_FILES),
    *(
        f"{prefix}{weights}"
        for prefix in ("", "*/", "diffusion_pytorch_", "*/diffusion_pytorch_")
        for weights in _WEIGHTS
    ),
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_ERRORS: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError)  # whatever HTTP library huggingface_hub uses
_BUNDLED = {name: file for name, file in ASSETS.items() if not Path(file).suffix}


def named(name: str | Path) -> str | Path:
    """The folder of a bundled model; a folder or Hub id as it is.

    Raises:
        ValueError: A name without "/" that is neither bundled nor a folder; suggests the nearest.
    """
    path = resolve(name)
    if len(Path(path).parts) == 1 and not Path(path).exists():
        lookup(_BUNDLED, str(path), "model folder or bundled name")
    return path


def model_folder(
    name: str | Path, *, patterns: Sequence[str] = MODEL_FILES, subfolder: str | None = None, **hub_options: Any
) -> Path:
    """The folder of a saved model or pipeline.

    Args:
        name: Local folder, bundled name, or Hub id, whose files are downloaded.
        patterns: Files of a Hub id that are wanted.
        subfolder: Of the folder or of the Hub id; nothing else is downloaded then.
        **hub_options: ``revision``, ``cache_dir``, ``token``, ``force_download``, ``local_files_only`` of
            ``snapshot_download``; for Hub ids only.

    Raises:
        FileNotFoundError: No such folder or subfolder.
        ValueError: A file, or a name without "/" that is not bundled; suggests the nearest.
        ConnectionError: The Hub has no such model, does not show it, or cannot be reached.

    Example:
        >>> model_folder("stylegan2-fashion-mnist").name
        'stylegan2-fashion-mnist'
    """
    folder = Path(named(name))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name} is a file; allowed are the folder of a saved model, a bundled name and a Hub id.")
    if not folder.is_dir():
        folder = _downloaded(str(name), patterns, subfolder, hub_options)
    found = folder / subfolder if subfolder else folder
    if not found.is_dir():
        raise FileNotFoundError(f"subfolder is {subfolder!r}, but {name} has no such folder.")
    return found


def _downloaded(name: str, patterns: Sequence[str], subfolder: str | None, options: Mapping[str, Any]) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"there is no folder {name}, and a Hub id has the form NAMESPACE/NAME.")
    problem = unreachable()
    if problem:
        options = {**options, "local_files_only": True}
    wanted = [f"{subfolder}/{pattern}" for pattern in patterns] if subfolder else list(patterns)
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, **options))
    except _HUB_ERRORS as error:
        said = problem or str(error).partition("\n")[0]
        raise ConnectionError(
            f"{name}: no such folder here, and not on the Hub, or no connection or permission ({said})"
        ) from error


def unreachable() -> str:
    """Why there is no connection to the Hub, found by one attempt; "" if there is one, or if it is merely slow.

    The Hub's clients try a file that is not in the cache six times, over half a minute. What is in the cache loads
    without a connection, with ``local_files_only``.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.DEFAULT_REQUEST_TIMEOUT)
    except _HUB_ERRORS as error:
        slow = "Timeout" in type(error).__name__ and type(error).__name__ != "ConnectTimeout"
        return "" if slow else str(error).partition("\n")[0]
    return ""


def network_folder(
    name: str | Path, *, patterns: Sequence[str] = MODEL_FILES, subfolder: str | None = None, **hub_options: Any
) -> Path:
    """The folder of one network: as :func:`model_folder`; of a pipeline, that of its denoiser or only network.

    Raises:
        FileNotFoundError: No ``config.json``, besides what :func:`model_folder` raises.
        ValueError: A pipeline of several networks, of which none or more than one is a denoiser.
    """
    options = {"subfolder": subfolder, **hub_options}
    folder = model_folder(name, patterns=["*.json"], **options)
    if not (folder / "config.json").is_file() and (folder / "model_index.json").is_file():
        networks = [part for part in parts_of(folder) if (folder / part / "config.json").is_file()]
        try:
            (network,) = choose_components(networks, None, str(name))
        except ValueError as error:
            raise ValueError(
                f"{name} is a pipeline with {len(networks)} networks ({', '.join(networks) or 'none'}); one is "
                "needed. Give the folder of one of them, or subfolder=."
            ) from error
        options["subfolder"] = "/".join(filter(None, (subfolder, network)))
    elif not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; a model folder is one that save_pretrained wrote.")
    return model_folder(name, patterns=patterns, **options)


def parts_of(pipeline: Path) -> dict[str, str]:
    """Part -> class name, of a saved pipeline.

    Raises:
        ValueError: A damaged ``model_index.json``.
    """
    file = pipeline / "model_index.json"
    try:
        index = json.loads(file.read_text(encoding="utf-8")).items()
        entries = {name: entry for name, entry in index if isinstance(entry, list) and not name.startswith("_")}
        return {name: entry[1] for name, entry in entries.items() if len(entry) == 2 and isinstance(entry[1], str)}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error


def pipeline_class(index: Path) -> Any:
    """The class that a ``model_index.json`` names, of a module beside it, too; None if it names none."""
    found = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    return found[-1] if isinstance(found, list) and found else found
