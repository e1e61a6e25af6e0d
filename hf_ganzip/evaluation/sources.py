# SPDX-License-Identifier: Apache-2.0
"""What can be compared: images, features, or a model to sample, found by one rule."""

from __future__ import annotations

import json
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..assets import ASSETS, asset_path
from ..recipes import load_model
from .reference import load_reference


@dataclass(frozen=True)
class Source:
    """Exactly one of ``images`` uint8 (N, C, H, W), ``features`` (N, d) and ``model``.

    Args:
        name: How it was called.
        extractor_digest: Of the extractor that made the features, where their file says so.
    """

    name: str
    images: Tensor | None = None
    features: Tensor | None = None
    model: ModelMixin | None = None
    extractor_digest: str | None = None


def open_source(source: Any) -> Source:
    """Find out what ``source`` is.

    Args:
        source: A model, a tensor (uint8 (N, C, H, W) are images, float (N, d) features), or the name of
            a bundled model or image set;
            a model folder (with ``config.json``), or ``model:ID`` for a model on the Hub;
            a folder of images, a parquet file with an ``image`` or a ``features`` column;
            a .npy or .safetensors file with features (N, d) or uint8 images (N, C, H, W);
            a `datasets` id.

    Raises:
        FileNotFoundError: There is no such file or folder, and it can be no id.
        TypeError: A tensor of another kind.
        ValueError: The file is damaged or holds something else.
    """
    if isinstance(source, ModelMixin):
        return Source(type(source).__name__, model=source)
    if isinstance(source, Tensor):
        return _of_tensor("tensor", source)
    name = str(source)
    path = asset_path(name) if name in ASSETS and not Path(name).exists() else Path(name)
    if name.startswith("model:"):
        return Source(name, model=load_model(name.removeprefix("model:")))
    if (path / "config.json").is_file():
        return Source(name, model=load_model(path))
    if path.suffix == ".npy":
        return _of_tensor(name, _read_npy(path))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".parquet" and path.is_file():
        features = _read_feature_column(path)
        if features is not None:
            return _of_tensor(name, features)
    return Source(name, images=load_reference(name)[0])


def write_features(path: str | Path, features: Tensor, conditions: dict[str, Any]) -> None:
    """Write features (N, d) and where they come from to a .safetensors file that :func:`open_source` opens."""
    from safetensors.torch import save_file

    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in conditions.items()}
    save_file({"features": features.contiguous()}, path, metadata)


def _of_tensor(name: str, values: Tensor, digest: str | None = None) -> Source:
    if values.ndim == 4 and values.dtype == torch.uint8:
        return Source(name, images=values)
    if values.ndim == 2 and (values.is_floating_point() or values.dtype != torch.uint8):
        return Source(name, features=values, extractor_digest=digest)
    raise TypeError(
        f"{name} has shape {tuple(values.shape)} and dtype {values.dtype}; allowed are features (N, d) and images uint8 (N, C, H, W)."
    )


def _read_npy(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"{path} is no .npy file of numbers that can be read without running code: {error}"
        ) from error


def _read_safetensors(path: Path) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if names != ["features"] and len(names) != 1:
                raise ValueError(f"{path} has the tensors {', '.join(names)}; allowed is one, best named 'features'.")
            return _of_tensor(str(path), file.get_tensor(names[0]), metadata.get("extractor_digest"))
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def _read_feature_column(path: Path) -> Tensor | None:
    """Column ``features`` of a parquet file as (N, d), None where there is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        if "features" not in pyarrow.parquet.read_schema(path).names:
            return None
        column = pyarrow.parquet.read_table(path, columns=["features"])["features"].combine_chunks()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error
    values = np.asarray(column.flatten())
    if len(column) == 0 or len(values) % len(column) or column.null_count:
        raise ValueError(f"{path}: the column 'features' does not hold vectors of one length.")
    return torch.from_numpy(values.reshape(len(column), -1).copy())
