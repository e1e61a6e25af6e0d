# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

import pytest


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


# --- evaluating

# --- training and fine-tuning

# --- reports and pictures
