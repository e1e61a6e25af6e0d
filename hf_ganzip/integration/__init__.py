# SPDX-License-Identifier: Apache-2.0
"""How diffusers and transformers come to know ``quant_method: "hf_ganzip"``."""

from typing import Any

import diffusers.quantizers.auto as _first  # noqa: F401  its import registers the quantizer; `diffusers` is our module here
from torch import nn

from ..quantization.config import QuantizeConfig
from .config import GanzipConfig


__all__ = ["GanzipConfig", "attach", "detach"]


def attach(model: nn.Module, config: QuantizeConfig) -> None:
    """Make a diffusers or transformers model that was quantized in memory savable; other modules stay as they are."""
    library = _library_of(model)
    if library is not None:
        library.attach(model, config)


def detach(model: nn.Module) -> None:
    """Undo :func:`attach` after the packed layers were unpacked."""
    library = _library_of(model)
    if library is not None and getattr(model, "hf_quantizer", None) is not None:
        library.detach(model)


def _library_of(model: nn.Module) -> Any:
    """The module of this package that serves the model's library, by its base classes; nothing is imported to find out."""
    bases = {f"{cls.__module__}.{cls.__name__}" for cls in type(model).__mro__}
    if "diffusers.models.modeling_utils.ModelMixin" in bases:
        from . import diffusers

        return diffusers
    if "transformers.modeling_utils.PreTrainedModel" in bases:
        from . import transformers

        return transformers
    return None
