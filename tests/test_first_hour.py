# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

# --- models: quantize_, dequantize_, compile, memory

# --- loading and saving: from_pretrained, configs, casting, LoRA

# --- the command line


def test_quantize_takes_a_pipeline():
    from diffusers import DDPMPipeline, DDPMScheduler

    import hf_ganzip as gz

    from .conftest import tiny_unet

    pipe = DDPMPipeline(tiny_unet(), DDPMScheduler())
    report = gz.quantize_(pipe)
    assert list(report) == ["unet"] and pipe.unet.is_quantized and "smaller" in str(report)


# --- evaluating

# --- training and fine-tuning

# --- reports and pictures
