# SPDX-License-Identifier: Apache-2.0
"""The commands on pipelines, in other dtypes and quietly; and errors in the words of the command."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import hf_ganzip as gz
from hf_ganzip.quantization.packed import packed_modules

from .conftest import tiny_generator, tiny_unet
from .hub import LocalHub
from .test_transformers import text_encoder
from .tiny_pipelines import build, generate


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Folder of a Stable Diffusion pipeline, whose denoiser is also there in half precision."""
    folder = tmp_path_factory.mktemp("pipeline")
    build("stable diffusion").save_pretrained(folder)
    return folder


def test_compress_saves_the_whole_pipeline_again(done, pipeline, tmp_path):
    out = done("compress", pipeline, tmp_path / "small", "--bits", 4)
    assert out.startswith("--- unet\n") and "smaller" in out
    small = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert type(small).__name__ == "StableDiffusionPipeline" and small.scheduler.config.clip_sample is False
    assert packed_modules(small.unet) and not packed_modules(small.text_encoder)
    assert small.unet.config.quantization_config.record[-1]["base_model"] == "unet"


def test_components_of_a_hub_id(done, pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with LocalHub({"org/model": pipeline}) as hub:
        hub.use(monkeypatch)
        files = hub.repositories["org/model"].files
        weights = files["unet/diffusion_pytorch_model.safetensors"]
        others = ("unet/diffusion_pytorch_model.fp16.safetensors", "model-emaonly.safetensors", "unet/model.bin")
        hub.repositories["org/model"].commit(files | dict.fromkeys(others, weights))
        arguments = ("--component", "unet", "--component", "text_encoder", "--revision", "main", "--json")
        out = done("compress", "org/model", tmp_path / "small", *arguments)
        asked = " ".join(hub.requests)
    assert [report["component"] for report in json.loads(out)] == ["unet", "text_encoder"]
    assert "fp16" not in asked and "emaonly" not in asked and ".bin" not in asked
    small = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert packed_modules(small.unet) and packed_modules(small.text_encoder)
    assert generate(small).shape == (1, 16, 16, 3)


def test_a_recipe_prunes_refines_and_quantizes_the_denoiser(done, pipeline, tmp_path):
    steps, recipe = ["prune", "refine", "quantize"], tmp_path / "recipe.yaml"
    recipe.write_text("- {step: prune, ratio: 0.5}\n- {step: refine}\n- {step: quantize, bits: 4}\n")
    out = done("compress", pipeline, tmp_path / "small", "--recipe", recipe, "--json")
    assert [(each["component"], each["step"]) for each in json.loads(out)] == [("unet", step) for step in steps]
    small = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert [step["name"] for step in small.unet.config.quantization_config.record] == steps
    assert generate(small).shape == (1, 16, 16, 3)


def test_prune_and_refine_keep_a_gan_pipeline(call, tmp_path):
    gz.GANPipeline(tiny_generator(), class_names=["a", "b", "c"]).save_pretrained(tmp_path / "pipe")
    assert call("prune", tmp_path / "pipe", tmp_path / "pruned", "--ratio", 0.5, "--quiet")[:2] == (0, "")
    assert call("refine", tmp_path / "pruned", tmp_path / "refined", "-q")[:2] == (0, "")
    pipe = gz.GANPipeline.from_pretrained(tmp_path / "refined")
    assert pipe.config.class_names == ["a", "b", "c"]
    assert pipe.generator.num_parameters() < tiny_generator().num_parameters()
    assert call("compress", tmp_path / "refined", tmp_path / "small", "-q")[:2] == (0, "")
    assert packed_modules(gz.GANPipeline.from_pretrained(tmp_path / "small").generator)


def test_the_denoiser_is_measured(done, pipeline):
    done("sensitivity", pipeline, "--bits", 4, "--num-samples", 1, "-q", "--json")
    pipe = DiffusionPipeline.from_pretrained(pipeline)
    for network, flags in ((pipe.unet, ()), (pipe.vae, ("--subfolder", "vae"))):
        out = done("cost", pipeline, *flags, "--repeats", 1, "--no-memory", "--json")
        assert json.loads(out)["model"]["parameters"] == network.num_parameters()


@pytest.mark.parametrize("command", ["compress", "prune", "refine"])
def test_half_precision_stays_and_can_be_chosen(done, tmp_path, command):
    tiny_unet().half().save_pretrained(tmp_path / "half")
    for name, arguments, expected in (("same", (), "float16"), ("full", ("--dtype", "float32"), "float32")):
        done(command, tmp_path / "half", tmp_path / name, "--device", "cpu", *arguments)
        biases = load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")["conv_in.bias"]
        assert biases.dtype == getattr(torch, expected)


def test_a_text_encoder_alone(done, tmp_path):
    text_encoder().save_pretrained(tmp_path / "full")
    assert "smaller" in done("compress", tmp_path / "full", tmp_path / "small")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--method", "acik"), "--method: Unknown quantization method 'acik'. Did you mean 'aciq'"),
        (("--mean-bits", "2.0"), "--mean-bits is 2.0; allowed are more than 2"),
        (("--granularity", "rows"), "--granularity is 'rows'; allowed are"),
        (("--granularity", "group", "--group-size", "7"), "that --group-size 7 or a smaller size"),
        (("--scale-dtype", "int8"), "--scale-dtype is 'int8'; allowed are"),
        (("--activations", "int4"), "--activations is 'int4'; allowed are None and 'int8'"),
        (("--option", "seed"), "--option 'seed' is not NAME=VALUE"),
        (("--option", "sed=1"), "--method 'auto' has no option sed"),
        (("--method", "aciq", "--option", "sed=1"), "--method 'aciq' has no option sed"),
        (("--headroom", "2"), "--headroom is 2.0; allowed are"),
        (("--preset", "papr"), "--preset: Unknown preset 'papr'. Did you mean 'paper'"),
        (("--skip", "nothing.*"), "--skip 'nothing.*' matches no layer"),
        (("--recipe", "x.yaml"), "--recipe is x.yaml"),
        (("--component", "unett"), "Did you mean 'unet'? Set --component to some of"),
        (("--subfolder", "none"), "--subfolder is 'none', but"),
        (("--device", "tpu"), "--device is tpu; allowed are"),
    ],
)
def test_errors_of_compress_name_its_options(call, pipeline, tmp_path, arguments, message):
    code, out, err = call("compress", pipeline, tmp_path / "small", *arguments)
    assert code == 1 and out == "" and message in err and not (tmp_path / "small").exists()


def test_a_quantized_model_leads_to_its_option(call, tmp_path):
    model = tiny_unet()
    gz.quantize_(model)
    model.save_pretrained(tmp_path / "small")
    code, _, err = call("compress", tmp_path / "small", tmp_path / "smaller")
    assert code == 1 and "or set --requantize to quantize" in err and not err.startswith("hf-ganzip: quantize_")
    assert call("compress", tmp_path / "small", tmp_path / "smaller", "--requantize")[0] == 0
