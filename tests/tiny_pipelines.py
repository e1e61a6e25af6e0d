# SPDX-License-Identifier: Apache-2.0
"""Small text-to-image pipelines of diffusers with random weights, tokenizers and text encoders included, built without
a network.
"""

import inspect

import torch

from hf_ganzip.core.components import all_networks

from .conftest import same_conditions
from .tiny_diffusion import autoencoder, flux, pixart, sd3, xl_unet


TOKENS = 12  # of the longest text
CLIP_TOKENS = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"])}
T5_TOKENS = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("\u2581a", -1.0), ("\u2581b", -1.0)]


def clip(projected=False):
    """A tokenizer and a text encoder of 16 features, with a projection to 16 or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPTextConfig(vocab_size=64, max_position_embeddings=TOKENS, projection_dim=16, **sizes, **ids)
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
    return CLIPTokenizer(vocab=CLIP_TOKENS, merges=[], model_max_length=TOKENS), model


def t5(features):
    """A tokenizer and a text encoder of so many features."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    config = T5Config(vocab_size=16, d_model=features, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    tokenizer = T5TokenizerFast(vocab=T5_TOKENS, extra_ids=0, model_max_length=TOKENS)
    return tokenizer, T5EncoderModel(config).eval()


def texts(*pairs):
    """The pairs by the names of the arguments of pipelines: tokenizer, text_encoder, tokenizer_2 ..."""
    found = {}
    for number, pair in enumerate(pairs, 1):
        suffix = f"_{number}" if number > 1 else ""
        found |= {f"{kind}{suffix}": each for kind, each in zip(("tokenizer", "text_encoder"), pair)}
    return found


def vae(**changes):
    return autoencoder(latent_channels=4, **changes)


def stable_diffusion():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from .tiny_diffusion import conditional_unet

    return StableDiffusionPipeline(
        **texts(clip()),
        vae=vae(),
        unet=conditional_unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl():
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        **texts(clip(), clip(projected=True)),
        vae=vae(),
        unet=xl_unet(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
    )


def stable_diffusion_3():
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        **texts(clip(projected=True), clip(projected=True), t5(32)),
        transformer=sd3(joint_attention_dim=32, pooled_projection_dim=32),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06),
    )


def flux_dev():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    return FluxPipeline(
        **texts(clip(), t5(32)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1),
        transformer=flux(joint_attention_dim=32, pooled_projection_dim=16),
    )


def pixart_alpha():
    from diffusers import DDIMScheduler, PixArtAlphaPipeline

    tokenizer, text_encoder = t5(12)
    scheduler = DDIMScheduler(clip_sample=False)
    return PixArtAlphaPipeline(tokenizer, text_encoder, vae(), pixart(), scheduler)


PIPELINES = {
    "stable diffusion": stable_diffusion,
    "stable diffusion xl": stable_diffusion_xl,
    "stable diffusion 3": stable_diffusion_3,
    "flux": flux_dev,
    "pixart": pixart_alpha,
}


def build(name):
    """The pipeline of a name, with weights of seed 0 that leave no path dead."""
    torch.manual_seed(0)
    return PIPELINES[name]()


def generate(pipeline, **options):
    """Images (1, 16, 16, 3) of a text and a seed, numpy."""
    pipeline.set_progress_bar_config(disable=True)
    if type(pipeline).__name__.startswith("PixArt"):
        options |= {"clean_caption": False, "use_resolution_binning": False}
    if hasattr(pipeline, "tokenizer_3") or type(pipeline).__name__.startswith(("PixArt", "Flux")):
        options |= {"max_sequence_length": TOKENS}
    generator = torch.Generator().manual_seed(0)
    if "height" in inspect.signature(pipeline.__call__).parameters:
        options |= {"height": 16, "width": 16}
    with same_conditions(*all_networks(pipeline).values()):
        return pipeline("a b", generator=generator, num_inference_steps=2, output_type="np", **options).images
