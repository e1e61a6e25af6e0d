# SPDX-License-Identifier: Apache-2.0
"""Defaults of diffusion transformers that predict velocities (flow matching): Stable Diffusion 3, Flux, Wan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from diffusers import ModelMixin


_TIMESTEP = 500.0  # of 1,000
_TOKENS = 8  # of texts
_FLUX_GRID = 16  # tokens per side: a picture of 256 pixels
_WAN_GRID = (3, 8, 8)  # patches: frames, height, width
_WAN_TEXT, _WAN_IMAGE = 512, 257  # tokens of models that are also given images
_GUIDANCE = 3.5


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
        "timestep": torch.full((2,), _TIMESTEP),
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
        "timestep": torch.full((2,), _TIMESTEP / 1000),
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
    kwargs = {"timestep": torch.full((2,), _TIMESTEP), "encoder_hidden_states": text}
    if config.image_dim:
        images = 4 if config.pos_embed_seq_len else 2  # of the first and the last frame
        kwargs["encoder_hidden_states_image"] = torch.randn(images, _WAN_IMAGE, config.image_dim, generator=generator)
    return (latents,), kwargs
