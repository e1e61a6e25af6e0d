# SPDX-License-Identifier: Apache-2.0
"""Which modules of a model need more bits than others: by kind of model; without a family, by names and places.

Measured, one kind of layer at a time in 4 bits ("codebook", float16 scales per channel), all others in full precision:
squared error of the output relative to its square, per KiB saved, in units of that of the convolutions, or of the
feed-forward layers, in blocks.

- DDPM, bundled (noise over 10-step DDIM trajectories): ``conv_in`` 10,000, ``conv_out`` 950, shortcuts 2.3,
  ``time_embedding`` 1.8, down- and upsampling 0.1, ``time_emb_proj`` 0.1, attention 0.01.
- A DiT of 2M parameters (so, trained for it on the bundled images): patches 3,400, ``proj_out_2`` 180,
  ``proj_out_1`` 2.1, attention 0.5, modulation ``norm1.linear`` 0.2, times and classes 0.2.
- StyleGAN2, bundled: ``torgb`` 370, mapping 23, affine 1.5. BigGAN, bundled: ``output_layer`` 100, conditional norms
  5, first linear layer 0.1.

Embeddings of times are among the patterns because their error is the same in every step: final images of DDPM and DiT
suffer from it more than from any other kind of layer in blocks. Modulation is not: it is no worse than others, and 27,
33 and 31 % of the weights of Flux, Stable Diffusion 3 and DiT-XL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize


if TYPE_CHECKING:
    from diffusers import ModelMixin


# Components of names, as they are in diffusers and in the official repositories of its models.
_WORDS = re.compile(
    r"conv_in|conv_out|norm_out|adaln_single|img_in|txt_in|time_in|vector_in|guidance_in|mapping"
    r"|(x|t|y|pos|img|txt|image|text|time|timestep|class|label|guidance|caption|context|condition|patch|time_text)"
    r"_?(embed|embedder|embedding)s?"
    r"|(caption|text|time)_proj(ection)?|add_embedding|encoder_hid_proj"
)
_UNET_ENDS = ("conv_in", "conv_out")
_UNET_EMBEDDINGS = ("time_embedding.*", "class_embedding*", "add_embedding.*", "encoder_hid_proj*")
_OUTER = re.compile(r"proj_in|proj_out\w*|final_layer|head|(post_)?quant_conv")  # of the model itself, not of a block


def always(*patterns: str) -> Callable[[nn.Module], tuple[str, ...]]:
    """The same patterns for every model of a class."""
    return lambda model: patterns


# Image outputs and the mapping network; the layers that modulate convolutions need no more than these.
stylegan_sensitive = always("mapping.*", "synthesis.*torgb")
# Image output and conditional norms; the layer that turns latents into features, large, loses least.
biggan_sensitive = always("output_layer.*", "*.gain", "*.bias")
# Patches, both output projections, and in every block what embeds time and class.
dit_sensitive = always("pos_embed.proj", "*.norm1.emb.*", "proj_out_1", "proj_out_2")
# Patches, output projection, the modulation that all blocks share, and the projection of texts.
pixart_sensitive = always("pos_embed.proj", "adaln_single.*", "caption_projection.*", "proj_out")
# Of Stable Diffusion 3 and Flux: what embeds patches, texts, times and guidance, and the output.
mmdit_sensitive = always(
    "pos_embed.proj", "x_embedder", "context_embedder", "time_text_embed.*", "norm_out.linear", "proj_out"
)
# Patches, output projection, and what embeds times, texts and images.
wan_sensitive = always("patch_embedding", "condition_embedder.*", "proj_out")
# First and last convolutions of encoder and decoder, and those around the latents.
autoencoder_sensitive = always("*coder.conv_in", "*coder.conv_out", "quant_conv", "post_quant_conv")


def stylegan3_sensitive(model: ModelMixin) -> tuple[str, ...]:
    """Mapping network and image output."""
    return ("mapping.*", f"synthesis.{model.synthesis.layer_names[-1]}")


def unet_sensitive(model: ModelMixin) -> tuple[str, ...]:
    """First and last convolution, the residual blocks of the first and the last level, and what embeds times, classes,
    texts and images.

    The layers that project the time embedding into other residual blocks are not among them.
    """
    levels = ("down_blocks.0.resnets.*", f"up_blocks.{len(model.up_blocks) - 1}.resnets.*")
    return (*_UNET_ENDS, *levels, *_UNET_EMBEDDINGS)


def unet_float_activations(model: ModelMixin) -> tuple[str, ...]:
    """First and last convolution and what embeds: few operations. Noise predictions of the bundled DDPM at W4A8 have
    18 dB if ``conv_in`` rounds its images, and 30 dB if not.

    The first and the last level are not among them: they would gain 2 dB more, and are much of what is computed.
    """
    return (*_UNET_ENDS, *_UNET_EMBEDDINGS)


def sensitive_by_name(model: nn.Module) -> tuple[str, ...]:
    """Names of the first and the last module with a weight of two or more dimensions, and of those that are called
    like embeddings and outer projections.
    """
    names = [name for name, module in model.named_modules() if _has_matrix(module)]
    ends = {names[0], names[-1]} if names else set()
    return tuple(name for name in names if name in ends or _is_known(name))


def _is_known(name: str) -> bool:
    parts = name.split(".")
    return bool(_OUTER.fullmatch(parts[0]) or any(_WORDS.fullmatch(part) for part in parts))


def _has_matrix(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module, "weight") or "weight_codes" in module._buffers:
        return True
    weight = module._parameters.get("weight", module._parameters.get("weight_orig"))
    return isinstance(weight, Tensor) and weight.ndim > 1


def stylegan2_float_activations(model: ModelMixin) -> tuple[str, ...]:
    """The last convolution: of the 14.6 % that rounding all inputs of the bundled generator adds to its Frechet
    distance, it causes 13.3.
    """
    return (f"synthesis.b{model.config.resolution}.conv1",)
