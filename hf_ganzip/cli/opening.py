# SPDX-License-Identifier: Apache-2.0
"""Open what a command works on: one network, or all that is saved again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import flags
from .shared import settings


@dataclass(frozen=True)
class Place:
    """Where a model is and where it goes: the options ``--subfolder``, ``--revision``, ``--device`` and ``--dtype``."""

    subfolder: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: flags.Dtype | None = None

    def hub_options(self, model: str) -> dict[str, str]:
        """Options of :func:`.model_folder`; ValueError for a revision of what is here."""
        from ..assets import resolve

        if self.revision is not None and Path(resolve(model)).exists():
            raise ValueError(
                f"revision is {self.revision!r}, but {model} is a folder here; only a Hub id has revisions."
            )
        found = {"subfolder": self.subfolder, "revision": self.revision}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def torch_dtype(self) -> Any:
        """The dtype of torch; None if none was asked for."""
        import torch

        return None if self.dtype is None else getattr(torch, self.dtype.value)

    def check_device(self) -> None:
        """Raise ValueError for a device that is not here, before anything is loaded."""
        import torch

        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # the latter if torch was built without CUDA
            said = str(error).partition("\n")[0]
            raise ValueError(f"device is {self.device}; allowed are cpu and what this machine has: {said}") from error


def open_model(model: str, place: Place) -> Any:
    """One network: the model of an argument, or the denoiser of a pipeline."""
    from ..integration.opening import load_model

    place.check_device()
    opened = load_model(model, **place.hub_options(model), torch_dtype=place.torch_dtype)
    return opened.to(place.device or "cpu")


def open_whole(model: str, components: Sequence[str] | None, place: Place) -> tuple[Any, dict[str, Any]]:
    """All that is saved again, and the networks of it to work on.

    Args:
        model: As for :func:`.load_model`; also a model of transformers.
        components: Networks of a pipeline; None: its denoiser.
        place: Where it is.

    Returns:
        Model or pipeline; component -> network, "" for a model.

    Raises:
        ValueError: A component that the pipeline has not, or of a model.
        FileNotFoundError: As :func:`.load_model`.
        ConnectionError: As :func:`.load_model`.
    """
    from ..core.alignment import align_
    from ..core.components import networks_of
    from ..core.hub import PIPELINE_FILES, model_folder
    from ..saved.folder import open_saved

    place.check_device()
    folder = model_folder(model, patterns=PIPELINE_FILES, **place.hub_options(model))
    is_pipeline = (folder / "model_index.json").is_file()
    if not is_pipeline and components:
        raise ValueError(f"components is {components}, but {model} is a model; only pipelines have components.")
    whole = open_saved(folder, place.torch_dtype)
    networks = networks_of(whole, components or None) if is_pipeline else {"": whole}
    for network in networks.values():
        align_(network)
        network.to(place.device or "cpu")
    return whole, networks


def prompted_pipeline(model: str, place: Place) -> str:
    """The class of a pipeline that draws what prompts say, read off its files; "" for anything else."""
    import diffusers

    from ..core.hub import PIPELINE_FILES, model_folder, pipeline_class
    from ..evaluation.sampling import takes_prompts

    index = model_folder(model, patterns=PIPELINE_FILES[:1], **place.hub_options(model)) / "model_index.json"
    name = pipeline_class(index) or "" if index.is_file() else ""
    cls = getattr(diffusers, str(name), None)
    return name if isinstance(cls, type) and takes_prompts(cls) else ""


def read_prompts(file: Path | None) -> list[str] | None:
    """Prompts of a file, one a line; None without one.

    Raises:
        ValueError: It has none, or is no text.
        FileNotFoundError: There is no such file.
    """
    if file is None:
        return None
    try:
        found = list(filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8.") from error
    if not found:
        raise ValueError(f"{file} has no prompts; write one a line.")
    return found


def without_bars(options: Mapping[str, Any], choice: str, registry: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a step, without progress bars if the user wants quiet.

    Args:
        options: Of the step.
        choice: The one that names a class with options of its own, ``CHOICE_options``.
        registry: Name -> class.
    """
    fields = getattr(registry.get(options.get(choice)), "__dataclass_fields__", ())
    if not settings.quiet or "progress" not in fields:
        return dict(options)
    return dict(options) | {f"{choice}_options": {"progress": False, **options.get(f"{choice}_options", {})}}


def hushed(step: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`without_bars` of a step of a recipe."""
    from ..pruning.criteria import CRITERIA
    from ..quantization import METHODS

    if step["step"] == "refine" and settings.quiet:
        return {"progress": False, **step}
    choice = {"prune": ("criterion", CRITERIA), "quantize": ("method", METHODS)}.get(step["step"])
    return dict(step) if choice is None else without_bars(step, *choice)
