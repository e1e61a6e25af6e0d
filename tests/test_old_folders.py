# SPDX-License-Identifier: Apache-2.0
"""Folders that say "ganzip", saved before the name in them became "hf_ganzip", with the outputs that they had then."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, UNet2DModel
from safetensors.torch import load_file

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.quantization.packed import packed_modules
from hf_ganzip.saved.folder import open_saved, read_saved
from hf_ganzip.saved.inspection import describe


OLD = Path(__file__).parent / "golden" / "old_folders"
EXPECTED = load_file(OLD / "io.safetensors")


@torch.no_grad()
def output(model):
    if isinstance(model, UNet2DModel):
        return model(EXPECTED["sample"], 7).sample
    return model(torch.arange(6)[None]).last_hidden_state


def quant_method(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]


def openers(name):
    if name != "text_encoder":
        return [UNet2DModel.from_pretrained, AutoModel.from_pretrained, gz.load_model, open_saved]
    import transformers

    return [transformers.CLIPTextModel.from_pretrained, transformers.AutoModel.from_pretrained, open_saved]


@pytest.mark.parametrize("name", ["quantized", "pruned", "text_encoder"])
def test_they_open_as_they_were_and_are_saved_with_the_new_name(name, tmp_path):
    assert quant_method(OLD / name) == "ganzip"
    for opened in (opener(str(OLD / name)) for opener in openers(name)):
        torch.testing.assert_close(output(opened), EXPECTED[name])
        assert bool(packed_modules(opened)) == (name != "pruned")
        opened.save_pretrained(tmp_path / "new")
        assert quant_method(tmp_path / "new") == "hf_ganzip"
        again = type(opened).from_pretrained(tmp_path / "new")
        assert torch.equal(output(again), output(opened))


@pytest.mark.parametrize("name", ["quantized", "pruned", "text_encoder"])
def test_they_are_described_as_a_new_one_is(name, tmp_path):
    open_saved(OLD / name).save_pretrained(tmp_path)
    old, new = describe(OLD / name), describe(tmp_path)
    for key in ("class_name", "layers", "record", "tensors", "tensor_bytes"):
        assert old[key] == new[key], key
    assert all(layer["bytes"] for layer in old["layers"]) and old["quantization"]["quant_method"] == "ganzip"
    assert old["class_name"] == ("CLIPTextModel" if name == "text_encoder" else "UNet2DModel")
    assert read_saved(OLD / name).parts[""]["dtype"] == read_saved(tmp_path).parts[""]["dtype"] == ""


def test_an_old_pruned_config_builds_the_pruned_widths():
    built = gz.from_config(OLD / "pruned")
    opened = gz.load_model(OLD / "pruned")
    assert [parameter.shape for parameter in built.parameters()] == [each.shape for each in opened.parameters()]
    assert [step["name"] for step in recorded_steps(built)] == ["prune"]


def test_commands_read_them(done):
    assert "packed layer" in done("info", OLD / "quantized")
    assert "3 bits" in done("card", OLD / "quantized", "org/old", "--no-check")
