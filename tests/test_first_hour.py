# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

import pytest


# --- models: quantize_, dequantize_, compile, memory


def test_fine_tuning_after_dequantizing_trains():
    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    model.mapping.requires_grad_(False)  # what the user froze
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gz.quantize_(model)
    assert all(parameter.requires_grad == trainable[name] for name, parameter in model.named_parameters())
    gz.dequantize_(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trainable
    run(model)


def test_a_saved_and_dequantized_model_is_trainable_like_any_other(tmp_path):
    import hf_ganzip as gz

    from .conftest import tiny_generator

    model = tiny_generator()
    gz.quantize_(model)
    model.save_pretrained(tmp_path)
    restored = gz.StyleGAN2Generator.from_pretrained(tmp_path)
    gz.dequantize_(restored)
    assert all(parameter.requires_grad for parameter in restored.parameters())


def test_a_compiled_model_can_be_called_twice():
    import torch
    from torch import nn

    import hf_ganzip as gz

    m = nn.Sequential(nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 2, 2)
    gz.quantize_(m)
    c = torch.compile(m, backend="aot_eager")
    with torch.no_grad():
        expected = m(x)
        for _ in range(3):
            torch.testing.assert_close(c(x), expected)


@pytest.mark.parametrize("compute", ["packed", "dequantized"])
def test_one_truth_about_size(compute, call, tmp_path):
    import json

    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    parameters = model.num_parameters()
    report = gz.quantize_(model, gz.QuantizeConfig(compute=compute))
    run(model)
    held = report.bytes_after if compute == "packed" else report.bytes_after + report.unpacked_bytes
    assert (model.num_parameters(), model.get_memory_footprint()) == (parameters, held)
    model.save_pretrained(tmp_path / "small")
    code, out, _ = call("cost", tmp_path / "small", "--no-memory", "--json")
    cost = json.loads(out)["model"]
    assert code == 0 and (cost["parameters"], cost["bytes_in_memory"]) == (parameters, held)


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
        assert loaded.config.quantization_config.layers == in_memory.config.quantization_config.layers
        outputs += [run(loaded), run(in_memory)]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_quantize_takes_a_method_or_options():
    import pytest

    import hf_ganzip as gz

    from .conftest import tiny_generator

    for args, options, method, bits in (
        (("aciq",), {}, "aciq", 4),
        (("codebook",), {"bits": 3, "headroom": 0}, "codebook", 3),
        ((), {"bits": 3, "headroom": 0}, "auto", 3),
        ((), {"bits": 3, "preset": "paper"}, "aciq", 3),
        (("linear",), {"bits": 5}, "linear", 5),
        ((), {"modules_to_not_convert": ["mapping"], "headroom": 0}, "auto", 4),
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


def test_packed_models_are_cast():
    import torch

    import hf_ganzip as gz

    from .conftest import run, tiny_generator, tiny_unet

    for model in (tiny_unet(), tiny_generator()):
        gz.quantize_(model)
        for cast in (
            lambda model: model.to(torch.bfloat16),
            lambda model: model.to("cpu", torch.float32),
            lambda model: model.half(),
        ):
            assert run(cast(model)).isfinite().all()
    pipe = gz.GANPipeline(model.to(torch.float32)).to(torch.bfloat16)
    assert len(pipe(batch_size=2).images) == 2


def test_an_adapter_of_a_packed_model_is_saved(tmp_path):
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    import hf_ganzip as gz

    blocks = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    unet = UNet2DConditionModel(
        **blocks, block_out_channels=[8], layers_per_block=1, norm_num_groups=4, attention_head_dim=4
    )
    gz.quantize_(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    unet.save_lora_adapter(tmp_path)
    unet.unload_lora()
    unet.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    unet.fuse_lora()
    unet.unfuse_lora()


# --- the command line


def test_quantize_takes_a_pipeline():
    from diffusers import DDPMPipeline, DDPMScheduler

    import hf_ganzip as gz

    from .conftest import tiny_unet

    pipe = DDPMPipeline(tiny_unet(), DDPMScheduler())
    report = gz.quantize_(pipe)
    assert list(report) == ["unet"] and pipe.unet.is_quantized and "smaller" in str(report)


def test_compress_keeps_a_pipeline_a_pipeline(call, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline

    from .conftest import tiny_unet

    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    assert call("compress", tmp_path / "pipe", tmp_path / "small", "--component", "unet", "--quiet")[:2] == (0, "")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert type(pipe) is DDPMPipeline and pipe.unet.is_quantized


def test_errors_name_what_was_typed(call, tmp_path):
    code, _, err = call(
        "compress", "stylegan2-fashion-mnist", tmp_path / "x", "--granularity", "group", "--group-size", 0
    )
    assert code == 1 and "--group-size is 0" in err and "group_size" not in err


def test_a_grid_is_no_text_file(call, tmp_path):
    code, _, err = call("sample", "stylegan2-fashion-mnist", tmp_path / "out.txt")
    assert code == 2 and ".png, .jpg, .jpeg, .webp" in " ".join(err.split()) and not list(tmp_path.glob("out*"))


def test_python_m(monkeypatch, capsys):
    import runpy

    import hf_ganzip as gz

    monkeypatch.setattr("sys.argv", ["hf_ganzip", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("hf_ganzip", run_name="__main__")
    assert capsys.readouterr().out.strip() == gz.__version__


def test_a_typo_without_a_connection_fails_at_once(call, monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    for arguments in (("info", "no-such/model"), ("evaluate", "no-such/images", "stylegan2-fashion-mnist")):
        code, _, err = call(*arguments)
        assert code == 1 and "no-such" in err and "no connection" in err


def test_a_pip_install_has_the_scripts_and_recipes(call, tmp_path):
    code, out, _ = call("train", "stylegan2", "--help")
    assert code == 0 and "--max_train_steps" in out
    arguments = ("--recipe", "small-and-quantized", "--quiet")
    assert call("compress", "stylegan2-fashion-mnist", tmp_path / "small", *arguments)[:2] == (0, "")
