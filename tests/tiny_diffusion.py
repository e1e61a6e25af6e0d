# SPDX-License-Identifier: Apache-2.0
"""Small models of diffusers, one of each family and of each kind of condition, with random weights."""

import torch

from .conftest import tiny_unet


BLOCKS = {"block_out_channels": (8, 16), "norm_num_groups": 4}


def conditional_unet(**changes):
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8,
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**BLOCKS | config | changes).eval()


def xl_unet(**changes):
    """Of Stable Diffusion XL: pooled text (16) and six numbers about sizes."""
    config = {"cross_attention_dim": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return conditional_unet(**config | {"projection_class_embeddings_input_dim": 16 + 6 * 8} | changes)


def transformer(**changes):
    from diffusers import DiTTransformer2DModel

    config = {"sample_size": 8, "in_channels": 4, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    return DiTTransformer2DModel(**config | {"norm_num_groups": 4} | changes).eval()


def pixart(**changes):
    from diffusers import PixArtTransformer2DModel

    config = {"sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "caption_channels": 12}
    config |= {"num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24}
    return PixArtTransformer2DModel(**config | changes).eval()


def sd3(**changes):
    from diffusers import SD3Transformer2DModel

    config = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2}
    config |= {"attention_head_dim": 8, "caption_projection_dim": 16, "joint_attention_dim": 12}
    config |= {"pooled_projection_dim": 10, "pos_embed_max_size": 8, "qk_norm": "rms_norm"}
    return SD3Transformer2DModel(**config | {"dual_attention_layers": (0,)} | changes).eval()


def flux(**changes):
    from diffusers import FluxTransformer2DModel

    config = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}
    config |= {"attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 12}
    return FluxTransformer2DModel(**config | {"pooled_projection_dim": 10, "guidance_embeds": True} | changes).eval()


def wan(**changes):
    from diffusers import WanTransformer3DModel

    config = {"in_channels": 4, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
    config |= {"attention_head_dim": 12, "text_dim": 12, "freq_dim": 16, "rope_max_seq_len": 32}
    return WanTransformer3DModel(**config | changes).eval()


def autoencoder(**changes):
    from diffusers import AutoencoderKL

    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**BLOCKS | types | {"sample_size": 16} | changes).eval()


FAMILIES = {
    "UNet2DModel": tiny_unet,
    "UNet2DConditionModel": conditional_unet,
    "DiTTransformer2DModel": transformer,
    "PixArtTransformer2DModel": pixart,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "WanTransformer3DModel": wan,
    "AutoencoderKL": autoencoder,
}


def encoded(projected, added):
    """Options of what is attended to and of what is added to the timestep, for a UNet that projects the first."""
    return {"encoder_hid_dim": 20, "encoder_hid_dim_type": projected, "addition_embed_type": added}


CONDITIONS = {  # of the same families, other kinds of conditions
    "unet, classes": lambda: tiny_unet(num_class_embeds=5),
    "unet, class is a timestep": lambda: tiny_unet(class_embed_type="timestep"),
    "unet, class embedding given": lambda: conditional_unet(class_embed_type="identity"),
    "unet, class projected": lambda: conditional_unet(
        class_embed_type="projection", projection_class_embeddings_input_dim=10
    ),
    "stable diffusion xl": xl_unet,
    "its refiner": lambda: xl_unet(projection_class_embeddings_input_dim=32 + 5 * 8),
    "inpainting": lambda: conditional_unet(in_channels=9, out_channels=4),
    "deepfloyd": lambda: conditional_unet(
        **encoded("text_proj", "text"), addition_embed_type_num_heads=4, out_channels=8
    ),
    "kandinsky 2.1": lambda: conditional_unet(**encoded("text_image_proj", "text_image")),
    "kandinsky 2.2": lambda: conditional_unet(**encoded("image_proj", "image")),
    "kandinsky 2.2, hints": lambda: conditional_unet(
        **encoded("image_proj", "image_hint"), in_channels=8, out_channels=8
    ),
    "pixart, sizes": lambda: pixart(use_additional_conditions=True),
    "flux, no guidance": lambda: flux(guidance_embeds=False),
    "flux, filling": lambda: flux(in_channels=24, out_channels=16),
    "wan, image to video": lambda: wan(in_channels=12, image_dim=10, added_kv_proj_dim=24),
    "wan, first and last frame": lambda: wan(
        in_channels=12, image_dim=10, added_kv_proj_dim=24, pos_embed_seq_len=514
    ),
}
ALL = FAMILIES | CONDITIONS


@torch.no_grad()
def output(model):
    """Output tensor of the model's example inputs."""
    from hf_ganzip.families import example_inputs

    args, kwargs = example_inputs(model)
    return model(*args, return_dict=False, **kwargs)[0]
