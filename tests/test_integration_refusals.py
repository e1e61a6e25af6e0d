# SPDX-License-Identifier: Apache-2.0
"""What is not loaded: damaged folders, what is quantized already or by others, and diffusers without us."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import BitsAndBytesConfig, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file, save_file

import hf_ganzip as gz

from .conftest import tiny_unet


pytestmark = pytest.mark.processor


@pytest.mark.parametrize(
    "config", [gz.GanzipConfig(bits=8), gz.QuantizeConfig(bits=4), BitsAndBytesConfig()], ids=repr
)
def test_a_quantized_folder_is_not_quantized_again_while_loading(packed, config):
    with pytest.raises(ValueError, match=r"quantized already \(auto, 4 bits\); load it without quantization_config="):
        gz.StyleGAN2Generator.from_pretrained(packed, quantization_config=config)


def test_folders_of_other_libraries_are_not_quantized_again(folder):
    edit_config(folder, lambda c: c.update(quantization_config={"quant_method": "quanto", "weights_dtype": "int8"}))
    with pytest.raises(ValueError, match=r"quantized already \(quanto\); load it without quantization_config="):
        gz.StyleGAN2Generator.from_pretrained(folder, quantization_config=gz.GanzipConfig(bits=8))


def test_a_pruned_folder_is_not_left_to_another_library(tmp_path):
    model = tiny_unet()
    gz.prune_(model, gz.PruneConfig("random", 0.5))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pruned by hf_ganzip, .* is of bitsandbytes; allowed is GanzipConfig"):
        UNet2DModel.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig())


def edit_config(folder: Path, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


FIRST = "synthesis.b4.conv1"


def flip_a_bit(tensors):
    tensors[f"{FIRST}.weight_codes"][0] ^= 1


def shorten(tensors):
    tensors[f"{FIRST}.weight_codes"] = tensors[f"{FIRST}.weight_codes"][:-1].clone()


def retype(tensors):
    tensors[f"{FIRST}.weight_scale"] = tensors[f"{FIRST}.weight_scale"].float()


def add_layer(config):
    config["quantization_config"]["layers"]["synthesis.b64.conv0"] = config["quantization_config"]["layers"][FIRST]


def reshape_layer(config):
    config["quantization_config"]["layers"][FIRST]["shape"] = [16, 16, 9]


@pytest.mark.parametrize(
    "edit, change, message",
    [
        (edit_weights, lambda t: t.pop(f"{FIRST}.weight_codes"), r"missing tensors \['.*.b4.conv1.weight_codes'\]"),
        (edit_weights, lambda t: t.update(extra=torch.zeros(1)), r"unexpected tensors \['extra'\]"),
        (edit_weights, lambda t: t.pop(f"{FIRST}.bias"), r"missing tensors \['synthesis.b4.conv1.bias'\]"),
        (edit_weights, flip_a_bit, r"differ from their digest in config.json: \['synthesis.b4.conv1'\]"),
        (edit_weights, shorten, "has shape .* in the checkpoint; config.json asks for"),
        (edit_weights, retype, "is torch.float32 in the checkpoint; allowed is torch.float16"),
        (edit_config, add_layer, r"StyleGAN2Generator: config.json does not fit: .*b64.conv0: the model has no such"),
        (edit_config, reshape_layer, r"shape \(16, 16, 9\) in the table, \(16, 16, 3, 3\) in the model"),
        (edit_config, lambda c: c["quantization_config"]["layers"][FIRST].pop("bits"), "damaged entry"),
        (edit_config, lambda c: c["quantization_config"].update(layers={}), "no layers table"),
        (edit_config, lambda c: c["quantization_config"].update(format_version=99), "hf_ganzip format 99"),
        (edit_config, lambda c: c["quantization_config"].update(foo=1), "GanzipConfig has no option foo"),
        (edit_config, lambda c: c["quantization_config"].update(bits=77), "allowed are integers from 2 to 8"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value[:20],
)
def test_damaged_folders_are_refused(packed, edit, change, message):
    edit(packed, change)
    with pytest.raises(ValueError, match=message):
        gz.StyleGAN2Generator.from_pretrained(packed)


def test_truncated_safetensors_are_refused(packed):
    data = (packed / WEIGHTS).read_bytes()
    (packed / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(Exception, match="(?i)safetensor|incomplete|header|corrupt"):
        gz.StyleGAN2Generator.from_pretrained(packed)


def test_non_finite_weights_are_refused_while_loading(folder):
    edit_weights(folder, lambda t: t["mapping.fc1.weight"].fill_(float("nan")))
    with pytest.raises(ValueError, match="mapping.fc1.weight holds NaN or infinity; nothing was quantized"):
        gz.StyleGAN2Generator.from_pretrained(folder, quantization_config=gz.GanzipConfig(bits=4))


def test_patterns_without_a_layer_are_refused_while_loading(folder):
    config = gz.GanzipConfig(skip=("nothing.*",))
    with pytest.raises(ValueError, match=r"skip 'nothing.\*' matches no layer"):
        gz.StyleGAN2Generator.from_pretrained(folder, quantization_config=config)


def test_disk_offload_is_refused(packed, tmp_path):
    with pytest.raises(ValueError, match="on disk, where they cannot be unpacked"):
        device_map = {"mapping": "cpu", "synthesis": "disk"}
        gz.StyleGAN2Generator.from_pretrained(packed, device_map=device_map, offload_folder=tmp_path / "offload")
