# SPDX-License-Identifier: Apache-2.0
"""The seam between GANs and diffusion models: what a default needs to know of a model class.

``FAMILIES`` maps class names to a :class:`Family`, so that no model has to be imported to look one up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..registry import of_class
from . import diffusion, gan


@dataclass(frozen=True)
class Family:
    """Defaults of one kind of model.

    Args:
        last_block: Model -> glob patterns of the weights of its last residual block and output layer, which stay in full
            precision by default (the rule of Mordido et al., section 5).
        example_inputs: Model -> (args, kwargs) of a small deterministic forward pass.
        refine_prefix: Only tensors whose names begin so are refined (Singular Value Scaling, published selection).
        counts_vectors: Biases and norms count as operations in the papers' tables.
        calibration: (model, batch size, seed) -> endless repeatable forward passes ``model -> output`` on inputs that need no data.
    """

    last_block: Callable[[nn.Module], tuple[str, ...]]
    example_inputs: Callable[[nn.Module], tuple[tuple, dict]]
    calibration: Callable[[nn.Module, int, int], Iterator[Callable[[nn.Module], Tensor]]] | None = None
    refine_prefix: str = ""
    counts_vectors: bool = False


FAMILIES = {
    "StyleGAN2Generator": Family(
        gan.stylegan_last_block, gan.latent_inputs, gan.latent_calibration, refine_prefix="synthesis."
    ),
    "StyleGAN2Discriminator": Family(gan.discriminator_last_block, gan.image_inputs, gan.image_calibration),
    "StyleGANGenerator": Family(
        gan.stylegan1_last_block, gan.latent_inputs, gan.latent_calibration, refine_prefix="synthesis."
    ),
    "StyleGAN3Generator": Family(
        gan.stylegan3_last_block, gan.latent_inputs, gan.latent_calibration, refine_prefix="synthesis."
    ),
    "BigGANDeepGenerator": Family(gan.biggan_deep_last_block, gan.latent_inputs, gan.latent_calibration),
    "UGATITGenerator": Family(gan.translation_last_block, gan.image_inputs, gan.image_calibration),
    "UGATITDiscriminator": Family(gan.patch_discriminator_last_block, gan.image_inputs, gan.image_calibration),
    "BigGANGenerator": Family(gan.biggan_last_block, gan.latent_inputs, gan.latent_calibration),
    "BigGANDiscriminator": Family(gan.biggan_discriminator_last_block, gan.image_inputs, gan.image_calibration),
    "UNet2DModel": Family(
        diffusion.unet_last_block, diffusion.unet_inputs, diffusion.trajectory_calibration, counts_vectors=True
    ),
    "UNet2DConditionModel": Family(
        diffusion.unet_last_block,
        diffusion.conditional_unet_inputs,
        diffusion.trajectory_calibration,
        counts_vectors=True,
    ),
    "DiTTransformer2DModel": Family(diffusion.transformer_last_block, diffusion.class_conditional_transformer_inputs),
    "AutoencoderKL": Family(diffusion.autoencoder_last_block, diffusion.autoencoder_inputs),
}


def family_of(model: nn.Module) -> Family | None:
    """Family of the model's class or of the nearest base class that has one; None for a class of no family."""
    found: Family | None = of_class(FAMILIES, type(model))
    return found


def example_inputs(model: nn.Module) -> tuple[tuple, dict[str, Any]]:
    """(args, kwargs) of a small deterministic forward pass, on the device and in the dtype of the model.

    Raises:
        ValueError: A class of no family.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"a {type(model).__name__} belongs to no family, so that nothing is known of its inputs; register one in "
            "hf_ganzip.families.FAMILIES."
        )
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    device, dtype = tensors[0].device, getattr(model, "dtype", tensors[0].dtype)
    args, kwargs = family.example_inputs(model)

    def moved(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(moved, value))
        if isinstance(value, dict):
            return {name: moved(each) for name, each in value.items()}
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return moved(args), moved(kwargs)
