# SPDX-License-Identifier: Apache-2.0
"""The two sides of a comparison: opened, and checked against each other."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from torch import nn

from ...core.alignment import align_
from ...core.components import all_networks, is_pipeline, networks_of
from ...core.hub import PIPELINE_FILES, model_folder
from ...core.record import origin_of, recorded_steps
from ...pipelines.gan import GANPipeline
from ...saved.folder import open_saved


_DECIDING = (
    *("z_dim", "resolution", "image_channels", "num_classes"),  # of GANs
    *("num_class_embeds", "sample_size", "in_channels", "out_channels"),  # of denoisers
)
_PLAIN = 200  # letters of an option that is told
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


@dataclass(frozen=True)
class Side:
    """One of the two: a network that is sampled, or a pipeline that is called.

    Args:
        role: "original" or "candidate".
        name: How it was called.
        whole: Network or pipeline.
        folder: Where its files are, None for an object in memory.
        dtype: In which it was opened; None: as it was saved, or is in memory.
    """

    role: str
    name: str
    whole: Any
    folder: Path | None = None
    dtype: torch.dtype | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Name -> network that makes the images: the denoisers of a pipeline, "" for a network alone."""
        return networks_of(self.whole) if is_pipeline(self.whole) else {"": self.whole}

    @property
    def all_networks(self) -> dict[str, nn.Module]:
        """Also text encoders and decoders."""
        return all_networks(self.whole) if is_pipeline(self.whole) else {"": self.whole}

    @property
    def denoises(self) -> bool:
        """Whether its networks are called once a timestep."""
        return not any("z_dim" in getattr(each, "config", ()) for each in self.networks.values())

    @property
    def device(self) -> torch.device:
        return next(t for each in self.networks.values() for t in (*each.parameters(), *each.buffers())).device

    @property
    def bytes_on_disk(self) -> int | None:
        """Of the weight files in its folder."""
        if self.folder is None:
            return None
        return sum(file.stat().st_size for kind in _WEIGHTS for file in self.folder.rglob(kind))


def open_side(
    role: str, what: Any, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Side:
    """A side from an object, which stays where it is and as it is, or from a folder, bundled name or Hub id.

    Args:
        role: "original" or "candidate".
        what: Network or pipeline, or where one is saved.
        device: Of what is opened here; None: the CPU.
        dtype: Of its weights; None: as they were saved.

    Raises:
        TypeError: Something else.
        ValueError: As :func:`.open_saved` and :func:`.model_folder`.
        FileNotFoundError: As :func:`.model_folder`.
        ConnectionError: As :func:`.model_folder`.
    """
    folder, name = None, str(what)
    if isinstance(what, (str, Path)):
        folder = model_folder(what, patterns=PIPELINE_FILES)
        what = open_saved(folder, dtype)
    elif isinstance(what, ModelMixin) or is_pipeline(what):
        name = origin_of(what) or type(what).__name__
        methods = {said["quant_method"] for said in compression_said(Side(role, name, what)).values()}
        name += f" ({', '.join(sorted(methods))}, in memory)" if methods else " (in memory)"
    else:
        raise TypeError(
            f"compare: {role} is a {type(what).__name__}; allowed are a network, a pipeline, a folder of one, a "
            "bundled name and a Hub id."
        )
    whole = what.generator if isinstance(what, GANPipeline) else what
    side = Side(role, name, whole, folder, dtype)
    if folder is not None:
        for network in side.all_networks.values():
            align_(network)
        whole.to(device or "cpu")
    return side


def open_sides(
    original: Any, candidate: Any, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[Side, Side]:
    """Both sides, comparable. A candidate that is only the denoiser takes the place of that of the original pipeline.

    Raises:
        TypeError: As :func:`open_side`.
        ValueError: What differs besides the weights, all at once; or as :func:`open_side`.
        FileNotFoundError: As :func:`open_side`.
        ConnectionError: As :func:`open_side`.
    """
    first, second = open_side("original", original, device, dtype), open_side("candidate", candidate, device, dtype)
    if is_pipeline(first.whole) and not is_pipeline(second.whole) and len(first.networks) == 1:
        (name,) = first.networks
        if not _differences_of({name: first.networks[name]}, {name: second.whole}):
            whole = copy.copy(first.whole)  # from_pipe would cast what both share
            setattr(whole, name, second.whole)
            second = replace(second, whole=whole)
    if problems := _differences(first, second):
        raise ValueError(
            f"compare: {first.name} and {second.name} differ in more than their weights: {'; '.join(problems)}. Only "
            "what is drawn in the same way can be compared image by image; gz.evaluate measures each against real "
            "images."
        )
    return first, second


def _differences(first: Side, second: Side) -> list[str]:
    kinds = [type(each.whole) for each in (first, second)]
    if is_pipeline(first.whole) != is_pipeline(second.whole) or is_pipeline(first.whole) and not _related(*kinds):
        return [f"original is a {kinds[0].__name__}, candidate a {kinds[1].__name__}"]
    found = _differences_of(first.networks, second.networks)
    if first.device != second.device:
        found.append(f"original is on {first.device}, candidate on {second.device}")
    schedulers = [getattr(each.whole, "scheduler", None) for each in (first, second)]
    if type(schedulers[0]) is not type(schedulers[1]):
        found.append(f"scheduler {' against '.join(type(each).__name__ for each in schedulers)}")
    elif schedulers[0] is not None:
        settings = [sampler_of(each) for each in schedulers]
        found += _unequal(settings, sorted(settings[0].keys() | settings[1].keys()), "the scheduler")
    return found


def _unequal(pair: Sequence[Mapping[str, Any]], keys: Iterable[str], where: str) -> list[str]:
    values = {key: (pair[0].get(key), pair[1].get(key)) for key in keys}
    return [f"{key} of {where} {one} against {other}" for key, (one, other) in values.items() if one != other]


def _differences_of(first: Mapping[str, nn.Module], second: Mapping[str, nn.Module]) -> list[str]:
    if first.keys() != second.keys():
        return [f"networks {', '.join(first)} against {', '.join(second)}"]
    found = []
    for name, network in first.items():
        other = second[name]
        where = name or "the network"
        if not _related(type(network), type(other)):
            found.append(f"{where} is a {type(network).__name__} against a {type(other).__name__}")
            continue
        found += _unequal([getattr(each, "config", {}) for each in (network, other)], _DECIDING, where)
    return found


def _related(first: type, second: type) -> bool:
    return issubclass(first, second) or issubclass(second, first)


def sampler_of(scheduler: Any) -> dict[str, Any]:
    """The settings of a scheduler, without where they come from."""
    return {
        name: list(value) if isinstance(value, (tuple, np.ndarray)) else value
        for name, value in dict(scheduler.config).items()
        if not name.startswith("_")
    }


def weights_of(side: Side) -> str:
    """Averaged or raw weights, as far as the record, the source or the name of the files tells; "unknown" otherwise."""
    for network in side.networks.values():
        config = getattr(network, "config", {})
        if source := (config.get("_ganzip_source") or {}).get("network", ""):
            return f"{'average' if 'ema' in source.lower() else 'raw'} (network {source} of the converted file)"
        steps = recorded_steps(network)
        if any(name.startswith("ema_") and value for step in steps for name, value in step.get("options", {}).items()):
            return "average (recorded by its training)"
        if "ema" in (origin_of(network) + side.name).lower().replace("/", "-").replace("_", "-").split("-"):
            return "average (by its name)"
    return "unknown"


def compression_said(side: Side) -> dict[str, dict[str, Any]]:
    """Network -> ``quant_method`` and those options of its ``quantization_config`` that are set and plain, whoever
    wrote it; for those that have one.
    """
    found = {}
    for name, network in side.all_networks.items():
        config = getattr(getattr(network, "config", None), "quantization_config", None)
        if config is None:
            continue
        said = config if isinstance(config, Mapping) else config.to_dict()
        method = said.get("quant_method", type(config).__name__)
        plain = {
            key: value if isinstance(value, (str, int, float)) else str(value)
            for key, value in said.items()
            if value and len(str(value)) < _PLAIN
        }
        found[name or "network"] = plain | {"quant_method": str(getattr(method, "value", method))}
    return found
