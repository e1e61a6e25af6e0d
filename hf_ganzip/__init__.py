# SPDX-License-Identifier: Apache-2.0
"""Make image generators small, and say honestly what that cost.

``import hf_ganzip`` is cheap: names load on first use, the quantizers register themselves when diffusers or
transformers is imported, and the names of our metrics when `evaluate` is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from .core.post_import import when_imported
from .core.registry import suggestion


__version__ = "0.2.0"

if TYPE_CHECKING:  # `as`: type checkers do not see through `__all__` below
    # isort: off
    # load
    from .models import StyleGAN2Generator as StyleGAN2Generator
    from .models import StyleGAN2Discriminator as StyleGAN2Discriminator
    from .models import StyleGANGenerator as StyleGANGenerator
    from .models import StyleGAN3Generator as StyleGAN3Generator
    from .models import BigGANGenerator as BigGANGenerator
    from .models import BigGANDiscriminator as BigGANDiscriminator
    from .models import BigGANDeepGenerator as BigGANDeepGenerator
    from .models import UGATITGenerator as UGATITGenerator
    from .models import UGATITDiscriminator as UGATITDiscriminator
    from .pipelines import GANPipeline as GANPipeline
    from .pipelines import ImageTranslationPipeline as ImageTranslationPipeline
    from .checkpoints import convert as convert
    from .integration.opening import load_model as load_model
    from .integration.opening import from_config as from_config
    from .integration import GanzipConfig as GanzipConfig

    # compress
    from .recipes import compress as compress
    from .pruning import PruneConfig as PruneConfig
    from .pruning import prune_ as prune_
    from .quantization import QuantizeConfig as QuantizeConfig
    from .quantization import quantize_ as quantize_
    from .quantization import dequantize_ as dequantize_
    from .quantization import set_compute_ as set_compute_
    from .quantization import sensitivity as sensitivity

    # refine
    from .refine import RefineConfig as RefineConfig
    from .refine import refine_ as refine_

    # train
    from .training.feature_quantizer import FeatureQuantizer as FeatureQuantizer
    from .training.feature_quantization import FQConfig as FQConfig
    from .training.feature_quantization import add_feature_quantizers as add_feature_quantizers
    from .training.feature_quantization import remove_feature_quantizers as remove_feature_quantizers

    # evaluate
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.comparing.compare import compare as compare

    # export
    from .exporting import export as export
    from .exporting import OnnxGenerator as OnnxGenerator
    from .exporting import OnnxUNet2DModel as OnnxUNet2DModel

    # publish
    from .publishing import push_to_hub as push_to_hub
    from .publishing import save_for_hub as save_for_hub
    # isort: on

_NAMES = {  # in the order of the work
    # load
    "StyleGAN2Generator": "models",
    "StyleGAN2Discriminator": "models",
    "StyleGANGenerator": "models",
    "StyleGAN3Generator": "models",
    "BigGANGenerator": "models",
    "BigGANDiscriminator": "models",
    "BigGANDeepGenerator": "models",
    "UGATITGenerator": "models",
    "UGATITDiscriminator": "models",
    "GANPipeline": "pipelines",
    "ImageTranslationPipeline": "pipelines",
    "convert": "checkpoints",
    "load_model": "integration.opening",
    "from_config": "integration.opening",
    "GanzipConfig": "integration",
    # compress
    "compress": "recipes",
    "PruneConfig": "pruning",
    "prune_": "pruning",
    "QuantizeConfig": "quantization",
    "quantize_": "quantization",
    "dequantize_": "quantization",
    "set_compute_": "quantization",
    "sensitivity": "quantization",
    # refine
    "RefineConfig": "refine",
    "refine_": "refine",
    # train
    "FeatureQuantizer": "training.feature_quantizer",
    "FQConfig": "training.feature_quantization",
    "add_feature_quantizers": "training.feature_quantization",
    "remove_feature_quantizers": "training.feature_quantization",
    # evaluate
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.comparing.compare",
    # export
    "export": "exporting",
    "OnnxGenerator": "exporting",
    "OnnxUNet2DModel": "exporting",
    # publish
    "push_to_hub": "publishing",
    "save_for_hub": "publishing",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_ganzip' has no attribute {name!r}.{suggestion(_NAMES, name)}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _take_own_classes(name: str) -> None:
    importlib.import_module(".integration.remote_code", __name__).take_own_classes_(sys.modules[name])


# The integration registers itself when it is imported.
when_imported("diffusers.quantizers.auto", lambda: importlib.import_module(".integration.diffusers", __name__))
when_imported("transformers.quantizers.auto", lambda: importlib.import_module(".integration.transformers", __name__))
when_imported(
    "diffusers.loaders.lora_pipeline",
    lambda: importlib.import_module(".integration.flux_adapters", __name__).register(),
)
when_imported(
    "peft.tuners.lora.layer",
    lambda: importlib.import_module(".integration.lora_fusing", __name__).register(),
)
when_imported(
    "evaluate.loading",
    lambda: importlib.import_module(".evaluate_modules.bare_names", __name__).register(
        sys.modules["evaluate.loading"]
    ),
)
for _name in ("diffusers.pipelines.pipeline_loading_utils", "diffusers.models.auto_model"):
    when_imported(_name, functools.partial(_take_own_classes, _name))
