# SPDX-License-Identifier: Apache-2.0
"""Defaults of diffusion models: those that predict noise (UNets, DiT, PixArt), and transformers that predict velocities
(flow matching: Stable Diffusion 3, Flux, Wan).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .trajectories import class_count


if TYPE_CHECKING:
    from diffusers import ModelMixin


_TIMESTEP = 10
_TOKENS = 8  # of texts
_VAE_FACTOR = 8  # pixels per latent and side, in the sizes that a model is told
_FLOW_TIMESTEP = 500.0  # of 1,000
_FLUX_GRID = 16  # tokens per side: a picture of 256 pixels
_WAN_GRID = (3, 8, 8)  # patches: frames, height, width
_WAN_TEXT, _WAN_IMAGE = 512, 257  # tokens of models that are also given images
_GUIDANCE = 3.5


def unet_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last residual block of the last up block, and the output convolution."""
    block = len(model.up_blocks) - 1
    resnet = len(model.up_blocks[block].resnets) - 1
    return (f"up_blocks.{block}.resnets.{resnet}.*", "conv_out.*")


def transformer_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last transformer block, and the output projections."""
    return (f"transformer_blocks.{len(model.transformer_blocks) - 1}.*", "proj_out*")


def unet_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy images (2, C, H, W) at timestep 10; classes 0 and 1, or N(0, I) as class embedding, where needed."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    channels = config.in_channels - (4 if config.get("addition_embed_type") == "image_hint" else 0)
    state = torch.randn(2, channels, *_sides(config.sample_size), generator=generator)
    return (state, _TIMESTEP), _class_labels(model, generator)


def conditional_unet_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """:func:`unet_inputs` with N(0, I) in place of an encoded text (2, 8, D), and of what else the config asks for.

    Pooled texts and images are N(0, I), too; the sizes of Stable Diffusion XL are those of the picture, uncropped
    (its refiner: and score 6).
    """
    args, kwargs = unet_inputs(model)
    config = model.config
    generator = torch.Generator().manual_seed(1)
    cross = config.cross_attention_dim
    width = config.get("encoder_hid_dim") or (cross if isinstance(cross, int) else cross[0])
    text = None
    if config.get("encoder_hid_dim_type") != "image_proj":
        text = torch.randn(2, _TOKENS, width, generator=generator)
    kwargs["encoder_hidden_states"] = text
    added: dict[str, Tensor] = {}
    kind = config.get("addition_embed_type")
    if kind == "text_time":
        added |= _text_and_sizes(config, generator)
    if kind in ("image", "image_hint") or config.get("encoder_hid_dim_type") == "image_proj":
        added["image_embeds"] = torch.randn(2, width, generator=generator)
    elif kind == "text_image" or config.get("encoder_hid_dim_type") == "text_image_proj":
        added |= {name: torch.randn(2, cross, generator=generator) for name in ("image_embeds", "text_embeds")}
    if kind == "image_hint":
        height, width = _sides(config.sample_size)
        added["hint"] = torch.randn(2, 3, _VAE_FACTOR * height, _VAE_FACTOR * width, generator=generator)
    return args, kwargs | ({"added_cond_kwargs": added} if added else {})


def class_conditional_transformer_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy latents (2, C, H, W) at timestep 10 with classes 0 and 1."""
    size = model.config.sample_size
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, model.config.in_channels, size, size, generator=generator)
    return (latents,), {"timestep": torch.tensor([_TIMESTEP] * 2), "class_labels": torch.tensor([0, 1])}


def pixart_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy latents (2, C, H, W) at timestep 10 and N(0, I) in place of an encoded text (2, 8, D); the size of the
    picture where needed.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    text = torch.randn(2, _TOKENS, config.caption_channels or config.cross_attention_dim, generator=generator)
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if model.use_additional_conditions:
        pixels = float(_VAE_FACTOR * config.sample_size)
        added = {"resolution": torch.full((2, 2), pixels), "aspect_ratio": torch.ones(2, 1)}
    kwargs = {"timestep": torch.tensor([_TIMESTEP] * 2), "encoder_hidden_states": text, "added_cond_kwargs": added}
    return (latents,), kwargs


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _class_labels(model: ModelMixin, generator: torch.Generator) -> dict[str, Tensor]:
    config, kind = model.config, model.config.get("class_embed_type")
    if kind == "identity":
        width = config.get("time_embedding_dim") or 4 * config.block_out_channels[0]
    elif kind in ("projection", "simple_projection"):
        width = config.projection_class_embeddings_input_dim
    else:
        classes = class_count(model)
        return {"class_labels": torch.arange(2) % classes} if classes else {}
    return {"class_labels": torch.randn(2, width, generator=generator)}


def _text_and_sizes(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Conditions of Stable Diffusion XL: pooled text (2, D); original size, corner, target size (2, 6) in pixels."""
    height, width = (_VAE_FACTOR * side for side in _sides(config.sample_size))
    total, each = config.projection_class_embeddings_input_dim, config.addition_time_embed_dim
    sizes = [height, width, 0, 0, height, width]
    if total == config.cross_attention_dim + 5 * each:  # the refiner: its text encoder is as wide as its pooled text
        sizes = [height, width, 0, 0, 6]
    return {
        "text_embeds": torch.randn(2, total - len(sizes) * each, generator=generator),
        "time_ids": torch.tensor([sizes] * 2, dtype=torch.float32),
    }


def flux_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last block of one stream (or of two, if there are no others), and the output projection."""
    singles = len(model.single_transformer_blocks)
    last = (
        f"single_transformer_blocks.{singles - 1}"
        if singles
        else f"transformer_blocks.{len(model.transformer_blocks) - 1}"
    )
    return (f"{last}.*", "proj_out")


def wan_last_block(model: ModelMixin) -> tuple[str, ...]:
    """The last transformer block, and the output projection."""
    return (f"blocks.{len(model.blocks) - 1}.*", "proj_out")


def sd3_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy latents (2, C, H, W) in the middle of the flow; texts are N(0, I), (2, 8, D) and pooled (2, P)."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    kwargs = {
        "encoder_hidden_states": torch.randn(2, _TOKENS, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=generator),
        "timestep": torch.full((2,), _FLOW_TIMESTEP),
    }
    return (latents,), kwargs


def flux_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy images of 16 x 16 tokens (2, 256, C) in the middle of the flow, texts as in :func:`sd3_inputs`;
    guidance 3.5 where needed.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    positions = torch.zeros(_FLUX_GRID, _FLUX_GRID, 3)
    positions[..., 1], positions[..., 2] = torch.arange(_FLUX_GRID)[:, None], torch.arange(_FLUX_GRID)
    kwargs = {
        "encoder_hidden_states": torch.randn(2, _TOKENS, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=generator),
        "timestep": torch.full((2,), _FLOW_TIMESTEP / 1000),
        "img_ids": positions.flatten(0, 1),
        "txt_ids": torch.zeros(_TOKENS, 3),
    }
    if config.guidance_embeds:
        kwargs["guidance"] = torch.full((2,), _GUIDANCE)
    return (torch.randn(2, _FLUX_GRID**2, config.in_channels, generator=generator),), kwargs


def wan_inputs(model: ModelMixin) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two noisy videos (2, C, T, H, W) of 3 x 8 x 8 patches in the middle of the flow, and N(0, I) in place of encoded
    texts (2, 8, D) and images.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    sides = (count * size for count, size in zip(_WAN_GRID, config.patch_size))
    latents = torch.randn(2, config.in_channels, *sides, generator=generator)
    tokens = _WAN_TEXT if config.added_kv_proj_dim else _TOKENS  # diffusers tells texts from images by their place
    text = torch.randn(2, tokens, config.text_dim, generator=generator)
    kwargs = {"timestep": torch.full((2,), _FLOW_TIMESTEP), "encoder_hidden_states": text}
    if config.image_dim:
        images = 4 if config.pos_embed_seq_len else 2  # of the first and the last frame
        kwargs["encoder_hidden_states_image"] = torch.randn(images, _WAN_IMAGE, config.image_dim, generator=generator)
    return (latents,), kwargs
