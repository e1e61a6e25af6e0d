# SPDX-License-Identifier: Apache-2.0
"""Make image generators small, and say honestly what that cost.

``import hf_ganzip`` is cheap: names load on first use, and the quantizer registers itself when diffusers is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .post_import import when_imported


__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints import convert
    from .evaluation.evaluate import evaluate
    from .integration import GanzipConfig
    from .models import (
        BigGANDeepGenerator,
        BigGANDiscriminator,
        BigGANGenerator,
        StyleGAN2Discriminator,
        StyleGAN2Generator,
        StyleGAN3Generator,
        StyleGANGenerator,
        UGATITDiscriminator,
        UGATITGenerator,
    )
    from .pipelines import GANPipeline, ImageTranslationPipeline
    from .pruning import PruneConfig, prune_
    from .publishing import push_to_hub
    from .quantization import QuantizeConfig, dequantize_, quantize_, sensitivity, set_compute_
    from .recipes import compress, from_config, load_model
    from .refine import RefineConfig, refine_
    from .training.feature_quantization import FQConfig, add_feature_quantizers, remove_feature_quantizers
    from .training.feature_quantizer import FeatureQuantizer

_NAMES = {
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
    "load_model": "recipes",
    "from_config": "recipes",
    "compress": "recipes",
    "GanzipConfig": "integration",
    "QuantizeConfig": "quantization",
    "quantize_": "quantization",
    "dequantize_": "quantization",
    "set_compute_": "quantization",
    "sensitivity": "quantization",
    "PruneConfig": "pruning",
    "prune_": "pruning",
    "RefineConfig": "refine",
    "refine_": "refine",
    "FeatureQuantizer": "training.feature_quantizer",
    "FQConfig": "training.feature_quantization",
    "add_feature_quantizers": "training.feature_quantization",
    "remove_feature_quantizers": "training.feature_quantization",
    "evaluate": "evaluation.evaluate",
    "push_to_hub": "publishing",
}

__all__ = [
    "StyleGAN2Generator",
    "StyleGAN2Discriminator",
    "StyleGANGenerator",
    "StyleGAN3Generator",
    "BigGANGenerator",
    "BigGANDiscriminator",
    "BigGANDeepGenerator",
    "UGATITGenerator",
    "UGATITDiscriminator",
    "GANPipeline",
    "ImageTranslationPipeline",
    "convert",
    "load_model",
    "from_config",
    "compress",
    "PruneConfig",
    "prune_",
    "RefineConfig",
    "refine_",
    "FeatureQuantizer",
    "FQConfig",
    "add_feature_quantizers",
    "remove_feature_quantizers",
    "GanzipConfig",
    "QuantizeConfig",
    "quantize_",
    "dequantize_",
    "set_compute_",
    "sensitivity",
    "evaluate",
    "push_to_hub",
]


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'hf_ganzip' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


# The integration registers itself when it is imported.
when_imported("diffusers.quantizers.auto", lambda: importlib.import_module(".integration.diffusers", __name__))
when_imported("transformers.quantizers.auto", lambda: importlib.import_module(".integration.transformers", __name__))
