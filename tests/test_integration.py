# SPDX-License-Identifier: Apache-2.0
"""The saved form: quantize while loading, save, restore with plain from_pretrained, bit for bit and strictly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS

import hf_ganzip as gz
from hf_ganzip.core.record import origin, recorded_steps
from hf_ganzip.families import family_of
from hf_ganzip.quantization.packed import packed_modules
from hf_ganzip.saved.inspection import describe

from .conftest import TINY, run, tiny_generator, tiny_unet
from .test_transformers import IDS, encode, text_encoder


pytestmark = pytest.mark.processor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "method, bits, granularity", [("linear", 2, "channel"), ("aciq", 3, "tensor"), ("aciq", 8, "channel")]
)
@pytest.mark.parametrize("name", sorted(TINY))
def test_round_trip_is_bit_exact(name, method, bits, granularity, dtype, tmp_path):
    full = TINY[name]()
    full.save_pretrained(tmp_path / "full")
    cls = type(full)
    config = gz.GanzipConfig(method=method, bits=bits, granularity=granularity)
    model = cls.from_pretrained(tmp_path / "full", quantization_config=config, torch_dtype=dtype)
    expected = run(model)
    model.save_pretrained(tmp_path / "packed")
    restored = cls.from_pretrained(tmp_path / "packed", torch_dtype=dtype)
    assert torch.equal(run(restored), expected)
    restored.save_pretrained(tmp_path / "again")
    assert (tmp_path / "packed" / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()
    assert restored.config.quantization_config.to_dict() == model.config.quantization_config.to_dict()
    for module in packed_modules(restored).values():
        assert module.weight_scale.dtype == torch.float32


def wide_unet():
    """One whose convolutions a low rank pays for."""
    return tiny_unet(block_out_channels=(32, 32), norm_num_groups=8)


QUICK = {
    "gptq": {"batches": 3, "batch_size": 4, "progress": False},
    "latent_distill": {"steps": 3, "batch_size": 4, "base": "codebook", "progress": False},
}
INTEGER = {"activations": "int8"}


@pytest.mark.parametrize(
    "make, options, layout",  # an entry of the layout of some layers
    [
        (tiny_generator, {}, "codebook"),
        *((tiny_generator, {"method": name, "method_options": QUICK[name]}, "rows") for name in QUICK),
        *((make, INTEGER, "activations") for make in (tiny_generator, tiny_unet)),
        *((make, INTEGER | {"activation_range": "dynamic"}, "activations") for make in (tiny_generator, tiny_unet)),
        (tiny_unet, {"bias_correction": True}, "codebook"),
        (tiny_unet, {"bias_correction": True} | INTEGER, "activations"),
        (tiny_unet, {"hadamard": True}, "rotation"),
        (wide_unet, {"svd_rank": 1}, "rank"),
    ],
)
def test_in_memory_while_loading_and_restored_the_model_is_the_same(make, options, layout, tmp_path):
    model, options = make(), {"bits": 3} | options
    model.save_pretrained(tmp_path / "full")
    report = gz.quantize_(model, **options)
    loaded = type(model).from_pretrained(tmp_path / "full", quantization_config=gz.GanzipConfig(**options))
    assert loaded.hf_quantizer.report.to_dict() == report.to_dict()
    loaded.save_pretrained(tmp_path / "packed")
    restored = type(model).from_pretrained(tmp_path / "packed")
    memory, saved, again = (each.config.quantization_config.to_dict() for each in (model, loaded, restored))
    assert saved == again and saved["layers"] == memory["layers"]
    assert any(entry.get(layout) for entry in saved["layers"].values())
    assert {name: saved.get(name) for name in options.keys() - {"method_options"}}.items() <= options.items()
    assert saved.keys() & {"bias_correction", "activations"} == options.keys() & {"bias_correction", "activations"}
    for layer in packed_modules(restored).values():
        assert layer.packed_buffers().keys() == layer.packed_layout.buffers.keys()
    sizes = {layer["name"]: layer["bytes"] for layer in describe(tmp_path / "packed")["layers"]}
    assert sizes == {layer.name.removesuffix(".weight"): layer.bytes_after for layer in report.quantized}
    assert torch.equal(run(loaded), run(model))
    for mode in (model.config.quantization_config.compute, "packed", "dequantized"):
        gz.set_compute_(model, mode)
        gz.set_compute_(restored, mode)
        assert torch.equal(run(restored), run(model))


@pytest.mark.parametrize("options, buffer", [({"svd_rank": 1}, "weight_up"), (INTEGER, "input_scale")])
def test_all_packed_buffers_are_part_of_the_digest(options, buffer, tmp_path):
    model = wide_unet()
    gz.quantize_(model, bits=4, **options)
    next(tensor for name, tensor in model.named_buffers() if name.endswith(buffer)).add_(1)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="packed weights differ from their digest"):
        UNet2DModel.from_pretrained(tmp_path)


def test_keep_in_fp32_modules_stay_float32(packed):
    model = gz.StyleGAN2Generator.from_pretrained(packed, torch_dtype=torch.bfloat16)
    assert model.mapping.fc0.weight.dtype == torch.float32
    assert model.synthesis.b8.conv1.weight.dtype == torch.bfloat16


_FRESH = """
import diffusers, sys, torch, transformers
for cls, name in (
    (transformers.AutoModel, "text_encoder"),
    (transformers.CLIPTextModel, "text_encoder"),
    (diffusers.UNet2DModel, "unet"),
):
    try:
        cls.from_pretrained(f"{sys.argv[1]}/{name}")
    except Exception as error:
        print(f"{cls.__name__}: {error}")
import hf_ganzip  # after all that was imported
results = []
for cls, name in (
    (hf_ganzip.StyleGAN2Generator, "generator"),
    (diffusers.UNet2DModel, "unet"),
    (diffusers.AutoModel, "unet"),
    (transformers.AutoModel, "text_encoder"),
):
    model = cls.from_pretrained(f"{sys.argv[1]}/{name}").eval()
    args, kwargs = torch.load(f"{sys.argv[1]}/{name}.pt")
    with torch.no_grad():
        results.append((cls.__name__, name, model(*args, return_dict=False, **kwargs)[0]))
torch.save(results, sys.argv[1] + "/results.pt")
"""


@pytest.mark.process
def test_a_fresh_process_raises_rather_than_loads_noise_until_we_are_imported_and_then_restores(tmp_path):
    expected = {}
    for name, make in (("generator", tiny_generator), ("unet", tiny_unet), ("text_encoder", text_encoder)):
        model = make()
        gz.quantize_(model, bits=3)
        model.save_pretrained(tmp_path / name)
        inputs = ((IDS,), {}) if name == "text_encoder" else family_of(model).example_inputs(model)
        torch.save(inputs, tmp_path / f"{name}.pt")
        expected[name] = encode(model) if name == "text_encoder" else run(model)
    found = subprocess.run([sys.executable, "-c", _FRESH, tmp_path], capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    messages = dict(line.split(": ", 1) for line in found.stdout.splitlines())
    assert messages.keys() == {"AutoModel", "CLIPTextModel", "UNet2DModel"}
    assert "Unknown quantization type, got hf_ganzip" in messages["UNet2DModel"]
    assert found.stderr.count("Unknown quantization type, got hf_ganzip") >= 2
    assert found.stderr.count("CLIPTextModel LOAD REPORT") >= 2 and "MISMATCH" in found.stderr
    results = torch.load(tmp_path / "results.pt")
    assert len(results) == 4
    for loader, name, output in results:
        assert torch.equal(output, expected[name]), loader


def test_shards_are_quantized_while_loading_and_restored(tmp_path):
    model = tiny_unet()
    model.save_pretrained(tmp_path / "full", max_shard_size="20KB")
    loaded = UNet2DModel.from_pretrained(tmp_path / "full", quantization_config=gz.GanzipConfig(bits=5))
    gz.quantize_(model, bits=5)
    assert torch.equal(run(loaded), run(model))
    model.save_pretrained(tmp_path / "small", max_shard_size="8KB")
    assert all(len(list((tmp_path / folder).glob("*.safetensors"))) > 2 for folder in ("full", "small"))
    for cls in (UNet2DModel, AutoModel):
        assert torch.equal(run(cls.from_pretrained(str(tmp_path / "small"))), run(model))


def test_record_says_what_was_done(packed, folder):
    config = json.loads((packed / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["method"]) == ("hf_ganzip", 4, "auto")
    (step,) = config["record"]
    assert step["name"] == "quantize" and step["options"]["bits"] == 4 and step["base_model"] == folder.name
    assert set(step["versions"]) >= {"torch", "diffusers"}


def test_origin_knows_the_hub_cache(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    assert origin(snapshot) == origin(snapshot / "unet") == "org/name@0123abc"
    assert origin(tmp_path) == tmp_path.name
    assert origin(Path("org/name")) == "org/name"
    assert origin(Path("")) == ""


def test_restored_floats_are_aligned(packed):
    """Codes may stay where the file is mapped: whole numbers are not rounded."""
    model = gz.StyleGAN2Generator.from_pretrained(packed)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in model.state_dict().values() if tensor.is_floating_point())


@pytest.mark.parametrize("method", ["linear", "auto", "gptq"])  # tensor by tensor, and in memory after loading
def test_a_pruned_folder_is_quantized_while_loading(tmp_path, method):
    in_memory = tiny_unet()
    gz.prune_(in_memory, gz.PruneConfig("random", 0.5))
    in_memory.save_pretrained(tmp_path / "pruned")
    options = {"batches": 2, "batch_size": 1, "progress": False} if method == "gptq" else {}
    config = gz.GanzipConfig(method, bits=4, method_options=options)
    loaded = UNet2DModel.from_pretrained(tmp_path / "pruned", quantization_config=config)
    gz.quantize_(in_memory, config)
    assert torch.equal(run(loaded), run(in_memory)) and packed_modules(loaded)
    loaded.save_pretrained(tmp_path / "both")
    restored = UNet2DModel.from_pretrained(tmp_path / "both")
    assert torch.equal(run(restored), run(loaded))
    assert loaded.hf_quantizer.report.quantized
    for each in (loaded, restored):
        assert [step["name"] for step in recorded_steps(each)] == ["prune", "quantize"]
    assert recorded_steps(restored)[1]["base_model"] == "pruned"
    assert not config.record and config.structure is None and config.layers is None  # it may serve another model


@pytest.mark.parametrize("dequantize", [gz.dequantize_, lambda model: model.dequantize()], ids=["ours", "diffusers"])
@pytest.mark.parametrize("pruned", [False, True])
def test_the_record_survives_dequantizing(dequantize, pruned, tmp_path):
    """The weights keep the errors of quantization; quantizing again is one more step."""
    model, names = tiny_unet(), ["quantize"]
    if pruned:
        gz.prune_(model, gz.PruneConfig("random", 0.5))
        names = ["prune", *names]
    gz.quantize_(model, bits=4)
    expected = run(model)
    dequantize(model)
    assert torch.equal(run(model), expected)
    model.save_pretrained(tmp_path)
    restored = UNet2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(restored), expected)
    for each in (model, restored):
        assert [step["name"] for step in recorded_steps(each)] == names
    gz.quantize_(restored, bits=4)
    assert [step["name"] for step in recorded_steps(restored)] == [*names, "quantize"]


def test_device_map_keeps_the_output(packed):
    placed = gz.StyleGAN2Generator.from_pretrained(packed, device_map={"": "cpu"})
    assert torch.equal(run(placed), run(gz.StyleGAN2Generator.from_pretrained(packed)))
