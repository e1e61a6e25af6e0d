# SPDX-License-Identifier: Apache-2.0
"""Open a model by folder, bundled name or Hub id, or build one with fresh weights in its widths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from ..core.alignment import align_
from ..core.hub import HUB_OPTIONS, network_folder
from ..models.base import class_named
from .diffusers import build


def load_model(model_or_id: str | Path, **kwargs: Any) -> ModelMixin:
    """Load a model of hf_ganzip or diffusers by the class named in its ``config.json``.

    Args:
        model_or_id: Folder with ``config.json`` and safetensors, bundled name or Hub id; of a pipeline its denoiser,
            or only network.
        **kwargs: ``revision``, ``cache_dir``, ``token``, ``force_download``, ``local_files_only``, ``subfolder``,
            which say where the files are; all others are for the class's ``from_pretrained`` (``torch_dtype``,
            ``quantization_config``, ...).

    Raises:
        FileNotFoundError: No such folder, or one without ``config.json``.
        ConnectionError: As :func:`.model_folder`.
        ValueError: An unknown name, ``config.json`` is damaged or names a class that neither library has, or a
            pipeline has several networks of which none, or more than one, is a denoiser.
    """
    where = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    config_file = network_folder(model_or_id, **where) / "config.json"
    cls = _class_of(_read_config(config_file), config_file)
    model: ModelMixin = cls.from_pretrained(config_file.parent, **kwargs)
    align_(model)
    return model


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the config of a model: {error!r}.") from error
    return config


def _class_of(config: Mapping[str, Any], source: Any) -> type[ModelMixin]:
    name = config.get("_class_name", "")
    cls: type[ModelMixin] | None = class_named(name)
    if cls is None:
        raise ValueError(f"{source} names the class {name!r}, which neither hf_ganzip nor diffusers has.")
    return cls


def from_config(config: str | Path | Mapping[str, Any] | ModelMixin, **hub_options: Any) -> ModelMixin:
    """A model with fresh weights in the widths of a saved one, pruned or not: for training scripts and averages.

    ``Class.from_config`` of diffusers builds the unpruned network.

    Args:
        config: Folder, bundled name or Hub id as for :func:`load_model`, what ``config.json`` holds, or a model.
        **hub_options: ``revision``, ``subfolder`` and others as for :func:`load_model`; for names only.

    Raises:
        FileNotFoundError: As :func:`load_model`.
        ConnectionError: As :func:`load_model`.
        ValueError: As :func:`load_model`.
    """
    if isinstance(config, ModelMixin):
        config = dict(config.config) | {"_class_name": type(config).__name__}
    elif not isinstance(config, Mapping):
        config = _read_config(network_folder(config, patterns=["*.json"], **hub_options) / "config.json")
    model: ModelMixin = build(_class_of(config, "config"), dict(config))
    return model
