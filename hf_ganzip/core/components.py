# SPDX-License-Identifier: Apache-2.0
"""The networks of a pipeline, and which of them makes the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .registry import suggestion


# Of GANs the generator, of unCLIP and Wuerstchen the last two.
DENOISERS = ("unet", "transformer", "generator", "prior", "decoder")


def is_pipeline(model: Any) -> bool:
    """Whether ``model`` has components, as pipelines of diffusers have."""
    return not isinstance(model, nn.Module) and isinstance(getattr(model, "components", None), Mapping)


def choose_components(found: Sequence[str], chosen: Iterable[str] | None, where: str) -> list[str]:
    """Names of the networks of a pipeline that are meant.

    Args:
        found: All of its networks.
        chosen: Names that were asked for; None: its denoiser (of several, such as ``transformer`` and
            ``transformer_2``, all), or its only network.
        where: The pipeline, for errors.

    Raises:
        ValueError: A name that is no network of the pipeline, none at all, or no denoiser to be found.

    Example:
        >>> choose_components(["vae", "unet", "text_encoder"], None, "StableDiffusionPipeline")
        ['unet']
    """
    if chosen is None:
        denoisers = [name for name in found if name.rstrip("_0123456789") in DENOISERS]
        if not denoisers and len(found) != 1:
            raise ValueError(f"{where} has no denoiser among its networks {_list(found)}. Set components.")
        return denoisers or list(found)
    names = [chosen] if isinstance(chosen, str) else list(dict.fromkeys(chosen))
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        near = suggestion(found, unknown[0]) if unknown else ""
        raise ValueError(f"{where} has no network {_list(unknown)}.{near} Set components to some of {_list(found)}.")
    return names


def all_networks(pipeline: Any) -> dict[str, nn.Module]:
    """Name -> network of a pipeline in memory."""
    return {name: each for name, each in pipeline.components.items() if isinstance(each, nn.Module)}


def networks_of(pipeline: Any, components: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """:func:`choose_components` of a pipeline in memory: name -> network."""
    networks = all_networks(pipeline)
    return {name: networks[name] for name in choose_components(list(networks), components, type(pipeline).__name__)}


def refuse_name(model: Any) -> None:
    """Check that a model or a pipeline is given.

    Raises:
        TypeError: The name of a model.
    """
    if isinstance(model, (str, Path)):
        raise TypeError(
            f"{str(model)!r} is a name; allowed are a model and a pipeline: load_model({str(model)!r}) opens one."
        )


def network_of(model: Any) -> Any:
    """The denoiser of a pipeline, anything else as it is.

    Raises:
        TypeError: The name of a model.
        ValueError: A pipeline with no denoiser, or with several.
    """
    refuse_name(model)
    if not is_pipeline(model):
        return model
    found = networks_of(model)
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__} has the denoisers {_list(found)}; give one of them.")
    return next(iter(found.values()))


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
