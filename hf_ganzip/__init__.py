# SPDX-License-Identifier: Apache-2.0
"""Make image generators small, and say honestly what that cost.

``import hf_ganzip`` is cheap: names load on first use, the quantizers register themselves when diffusers or
transformers is imported, and the names of our metrics when `evaluate` is.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .core.post_import import when_imported
from .core.registry import suggestion


__version__ = "0.2.0"

if TYPE_CHECKING:  # `as`: type checkers do not see through `__all__` below
    # isort: off
    # load
    from .models import StyleGAN2Generator as StyleGAN2Generator, StyleGAN2Discriminator as StyleGAN2Discriminator
    from .models import StyleGANGenerator as StyleGANGenerator, StyleGAN3Generator as StyleGAN3Generator
    from .models import BigGANGenerator as BigGANGenerator, BigGANDiscriminator as BigGANDiscriminator
    from .models import BigGANDeepGenerator as BigGANDeepGenerator, UGATITGenerator as UGATITGenerator
    from .models import UGATITDiscriminator as UGATITDiscriminator
    from .pipelines import GANPipeline as GANPipeline, ImageTranslationPipeline as ImageTranslationPipeline
    from .checkpoints import convert as convert
    from .integration.opening import load_model as load_model, from_config as from_config
    from .integration import GanzipConfig as GanzipConfig

    # compress
    from .recipes import compress as compress
    from .pruning import PruneConfig as PruneConfig, prune_ as prune_
    from .quantization import QuantizeConfig as QuantizeConfig, quantize_ as quantize_, dequantize_ as dequantize_
    from .quantization import set_compute_ as set_compute_, sensitivity as sensitivity

    # refine
    from .refine import RefineConfig as RefineConfig, refine_ as refine_

    # train
    from .training.feature_quantizer import FeatureQuantizer as FeatureQuantizer
    from .training.feature_quantization import FQConfig as FQConfig, add_feature_quantizers as add_feature_quantizers
    from .training.feature_quantization import remove_feature_quantizers as remove_feature_quantizers

    # evaluate
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.comparing.compare import compare as compare

    # export
    from .exporting import export as export, OnnxGenerator as OnnxGenerator, OnnxUNet2DModel as OnnxUNet2DModel

    # publish
    from .publishing import push_to_hub as push_to_hub, save_for_hub as save_for_hub
    # isort: on

_OF_ROOMS = {  # in the order of the work
    # load
    "models": "StyleGAN2Generator StyleGAN2Discriminator StyleGANGenerator StyleGAN3Generator BigGANGenerator "
    "BigGANDiscriminator BigGANDeepGenerator UGATITGenerator UGATITDiscriminator",
    "pipelines": "GANPipeline ImageTranslationPipeline",
    "checkpoints": "convert",
    "integration.opening": "load_model from_config",
    "integration": "GanzipConfig",
    # compress
    "recipes": "compress",
    "pruning": "PruneConfig prune_",
    "quantization": "QuantizeConfig quantize_ dequantize_ set_compute_ sensitivity",
    # refine
    "refine": "RefineConfig refine_",
    # train
    "training.feature_quantizer": "FeatureQuantizer",
    "training.feature_quantization": "FQConfig add_feature_quantizers remove_feature_quantizers",
    # evaluate
    "evaluation.evaluate": "evaluate",
    "evaluation.comparing.compare": "compare",
    # export
    "exporting": "export OnnxGenerator OnnxUNet2DModel",
    # publish
    "publishing": "push_to_hub save_for_hub",
}
_NAMES = {name: room for room, names in _OF_ROOMS.items() for name in names.split()}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_ganzip' has no attribute {name!r}.{suggestion(_NAMES, name)}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _when_imported(theirs: str, ours: str, function: str | None = None) -> None:
    """Import a module of ours after one of theirs, and hand theirs to a function of ours."""

    def meet() -> None:
        module = importlib.import_module(f".{ours}", __name__)
        if function is not None:
            getattr(module, function)(sys.modules[theirs])

    when_imported(theirs, meet)


_when_imported("diffusers.quantizers.auto", "integration.diffusers")  # which registers itself, as the next does
_when_imported("transformers.quantizers.auto", "integration.transformers")
_when_imported("diffusers.loaders.lora_pipeline", "integration.adapters", "show_shapes_to_flux_")
_when_imported("peft.tuners.lora.layer", "integration.adapters", "fuse_into_packed_layers_")
_when_imported("evaluate.loading", "evaluate_modules.install", "find_ours_")
for _name in ("diffusers.pipelines.pipeline_loading_utils", "diffusers.models.auto_model"):
    _when_imported(_name, "integration.remote_code", "take_own_classes_")
