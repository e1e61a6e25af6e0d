# SPDX-License-Identifier: Apache-2.0
"""The seam between GANs and diffusion models: what a default needs to know of a model class.

``FAMILIES`` maps class names to a :class:`Family`, so that no model has to be imported to look one up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.registry import of_class
from . import autoencoder, diffusion, gan, sensitive, trajectories
from .passes import Calibration, Pass, recorded_inputs  # noqa: F401


@dataclass(frozen=True)
class Family:
    """Defaults of one kind of model.

    Args:
        last_block: Model -> glob patterns of the weights of its last residual block and output layer, which stay in
            full precision by default (the rule of Mordido et al., section 5).
        example_inputs: Model -> (args, kwargs) of a small deterministic forward pass.
        refine_prefix: Only tensors whose names begin so are refined (Singular Value Scaling, published selection).
        counts_vectors: Biases and norms count as operations in the papers' tables.
        calibration: (model, batch size, seed) -> endless repeatable forward passes ``model -> output`` on inputs that
            need no data.
        sensitive: Model -> glob patterns, as in ``QuantizeConfig.skip``, of modules that need more bits than the
            others: few weights that all others depend on. A pattern may match nothing, where a model has no such part.
        samples_together: Samples of a batch of ``calibration`` when sensitivities are measured: few where a batch
            shares a timestep, so that many timesteps are seen.
        mixed: As ``calibration``, with a timestep of its own for every sample of a batch, for training; None:
            ``calibration``.
        distillation: Options of ``latent_distill`` where they are not given, other than those of most generators.
        parts: Name of a module that all others depend on -> as ``calibration``, passes through it alone.
        float_activations: Model -> glob patterns of modules whose inputs are not rounded to 8 bits; None: the
            sensitive ones.
    """

    last_block: Callable[[nn.Module], tuple[str, ...]]
    example_inputs: Callable[[nn.Module], tuple[tuple[Any, ...], dict[str, Any]]]
    calibration: Calibration | None = None
    refine_prefix: str = ""
    counts_vectors: bool = False
    sensitive: Callable[[nn.Module], tuple[str, ...]] = sensitive.sensitive_by_name
    samples_together: int = 16
    mixed: Calibration | None = None
    distillation: Mapping[str, float] = field(default_factory=dict, hash=False)
    parts: Mapping[str, Calibration] = field(default_factory=dict, hash=False)
    float_activations: Callable[[nn.Module], tuple[str, ...]] | None = None


def _denoiser(
    last_block: Callable[..., tuple[str, ...]],
    inputs: Callable[..., Any],
    states: Callable[..., Iterator[Pass]],
    sensitive: Callable[..., tuple[str, ...]],
    **options: Any,
) -> Family:
    """A model that predicts noise or velocities, calibrated on ``states`` of its own trajectories."""
    return Family(
        last_block,
        inputs,
        states,
        sensitive=sensitive,
        samples_together=4,  # a batch has one timestep
        mixed=functools.partial(states, mixed=True),
        distillation={
            "steps": 300,
            "batch_size": 8,
            "learning_rate": 0.004,
            "scale_learning_rate": 0.0005,
            "feature_weight": 0.3,
            "moment_weight": 0.0,
        },
        **options,
    )


def _unet(inputs: Callable[..., Any]) -> Family:
    return _denoiser(
        diffusion.unet_last_block,
        inputs,
        trajectories.noise_trajectories,
        sensitive.unet_sensitive,
        counts_vectors=True,
        float_activations=sensitive.unet_float_activations,
    )


def _of_latents(last_block: Callable[..., tuple[str, ...]], **options: Any) -> Family:
    return Family(last_block, gan.latent_inputs, gan.latent_calibration, **options)


def _of_styles(last_block: Callable[..., tuple[str, ...]], **options: Any) -> Family:
    """A StyleGAN: latents become styles first."""
    return _of_latents(last_block, refine_prefix="synthesis.", parts={"mapping": gan.style_calibration}, **options)


def _of_images(last_block: Callable[..., tuple[str, ...]]) -> Family:
    return Family(last_block, gan.image_inputs, gan.image_calibration)


_noises, _flows = trajectories.noise_trajectories, trajectories.flow_trajectories

FAMILIES = {
    "StyleGAN2Generator": _of_styles(
        gan.stylegan_last_block,
        sensitive=sensitive.stylegan_sensitive,
        float_activations=sensitive.stylegan2_float_activations,
    ),
    "StyleGAN2Discriminator": _of_images(gan.discriminator_last_block),
    "StyleGANGenerator": _of_styles(gan.stylegan1_last_block, sensitive=sensitive.stylegan_sensitive),
    "StyleGAN3Generator": _of_styles(gan.stylegan3_last_block, sensitive=sensitive.stylegan3_sensitive),
    "BigGANDeepGenerator": _of_latents(gan.biggan_deep_last_block),
    "UGATITGenerator": _of_images(gan.translation_last_block),
    "UGATITDiscriminator": _of_images(gan.patch_discriminator_last_block),
    "BigGANGenerator": _of_latents(
        gan.biggan_last_block, sensitive=sensitive.biggan_sensitive, distillation={"moment_weight": 3.0}
    ),
    "BigGANDiscriminator": _of_images(gan.biggan_discriminator_last_block),
    "UNet2DModel": _unet(diffusion.unet_inputs),
    "UNet2DConditionModel": _unet(diffusion.conditional_unet_inputs),
    "DiTTransformer2DModel": _denoiser(
        diffusion.transformer_last_block,
        diffusion.class_conditional_transformer_inputs,
        _noises,
        sensitive.dit_sensitive,
    ),
    "PixArtTransformer2DModel": _denoiser(
        diffusion.transformer_last_block, diffusion.pixart_inputs, _noises, sensitive.pixart_sensitive
    ),
    "SD3Transformer2DModel": _denoiser(
        diffusion.transformer_last_block, diffusion.sd3_inputs, _flows, sensitive.mmdit_sensitive
    ),
    "FluxTransformer2DModel": _denoiser(
        diffusion.flux_last_block,
        diffusion.flux_inputs,
        functools.partial(_flows, time_scale=1.0),
        sensitive.mmdit_sensitive,
    ),
    "WanTransformer3DModel": _denoiser(
        diffusion.wan_last_block, diffusion.wan_inputs, _flows, sensitive.wan_sensitive
    ),
    "AutoencoderKL": Family(
        autoencoder.autoencoder_last_block,
        autoencoder.autoencoder_inputs,
        autoencoder.reconstruction_calibration,
        sensitive=sensitive.autoencoder_sensitive,
    ),
}


def family_of(model: nn.Module) -> Family | None:
    """Family of the model's class or of the nearest base class that has one; None for a class of no family."""
    found: Family | None = of_class(FAMILIES, type(model))
    return found


def sensitive_layers(model: nn.Module) -> tuple[str, ...]:
    """Glob patterns, as in ``QuantizeConfig.skip``, of the modules of any model that need more bits than the others.

    Of a class of no family: the first and the last weight, and modules that are called like embeddings and outer
    projections.

    Example:
        >>> sensitive_layers(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
        ('0', '4')
    """
    family = family_of(model)
    return family.sensitive(model) if family else sensitive.sensitive_by_name(model)


def example_inputs(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
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

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    return map_tensors(moved, args), map_tensors(moved, kwargs)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor in it, within tuples, lists and dicts, replaced by ``function`` of it.

    Example:
        >>> import torch
        >>> map_tensors(torch.neg, ([torch.tensor(1)], {"a": torch.tensor(2), "b": None}))
        ([tensor(-1)], {'a': tensor(-2), 'b': None})
    """
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(function, each) for each in value)
    if isinstance(value, dict):
        return {name: map_tensors(function, each) for name, each in value.items()}
    return function(value) if isinstance(value, Tensor) else value
