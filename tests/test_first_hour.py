# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

# --- models: quantize_, dequantize_, compile, memory

# --- loading and saving: from_pretrained, configs, casting, LoRA


def test_a_pruned_folder_is_quantized_by_from_pretrained(tmp_path):
    import pytest
    import torch
    from diffusers import UNet2DModel

    import hf_ganzip as gz

    from .conftest import run, tiny_unet

    unet = tiny_unet()
    gz.prune_(unet, gz.PruneConfig("random", 0.5))
    unet.save_pretrained(tmp_path / "pruned")
    unet = UNet2DModel.from_pretrained(tmp_path / "pruned", quantization_config=gz.GanzipConfig(bits=4))
    assert unet.hf_quantizer.report.quantized
    unet.save_pretrained(tmp_path / "small")
    assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "small")), run(unet))
    with pytest.raises(ValueError, match="quantized already .*; load it without quantization_config="):
        UNet2DModel.from_pretrained(tmp_path / "small", quantization_config=gz.GanzipConfig(bits=2))


def test_one_config_serves_both_doors(tmp_path):
    import torch

    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    tiny_generator().save_pretrained(tmp_path)
    outputs = []
    for config in (gz.GanzipConfig(bits=4), gz.QuantizeConfig(bits=4)):
        loaded = gz.StyleGAN2Generator.from_pretrained(tmp_path, quantization_config=config)
        in_memory = gz.StyleGAN2Generator.from_pretrained(tmp_path)
        gz.quantize_(in_memory, config)
        assert len(loaded.config.quantization_config.layers) == len(in_memory.config.quantization_config.layers) == 13
        outputs += [run(loaded), run(in_memory)]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_quantize_takes_a_method_or_options():
    import pytest

    import hf_ganzip as gz

    from .conftest import tiny_generator

    for args, options, method, bits in (
        (("aciq",), {}, "aciq", 4),
        ((), {"bits": 3}, "aciq", 3),
        (("linear",), {"bits": 5}, "linear", 5),
        ((), {"modules_to_not_convert": ["mapping"]}, "aciq", 4),
    ):
        report = gz.quantize_(tiny_generator(), *args, **options)
        assert {(layer.method, layer.bits) for layer in report.quantized} == {(method, bits)}
    assert not any(layer.name.startswith("mapping") for layer in report.quantized)
    with pytest.raises(TypeError, match="no option 'bit'. Did you mean 'bits'?"):
        gz.quantize_(tiny_generator(), bit=4)


def test_bundled_names_open_classes_and_pipelines():
    import pytest

    import hf_ganzip as gz

    g = gz.StyleGAN2Generator.from_pretrained("stylegan2-fashion-mnist")
    assert g.config.resolution == 32
    pipe = gz.GANPipeline.from_pretrained("stylegan2-fashion-mnist")
    assert len(pipe(batch_size=2).images) == 2
    for cls in (gz.StyleGAN2Generator, gz.GANPipeline):
        with pytest.raises(ValueError, match="Did you mean 'stylegan2-fashion-mnist'?"):
            cls.from_pretrained("stylegan2-fashion-mnits")


def test_a_pipeline_opens_the_folder_of_a_generator(tmp_path):
    import hf_ganzip as gz

    from .conftest import tiny_generator

    g = tiny_generator()
    gz.quantize_(g, bits=4)
    g.save_pretrained(tmp_path)
    pipe = gz.GANPipeline.from_pretrained(tmp_path, class_names=["shirt", "shoe", "bag"])
    assert len(pipe(class_labels=["shoe"] * 2, batch_size=2).images) == 2


# --- the command line

# --- evaluating

# --- training and fine-tuning

# --- reports and pictures
