# SPDX-License-Identifier: Apache-2.0
"""Candidates of other libraries, and the bytes that models of any library hold."""

import copy

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.evaluation.cost import held_bytes

from .conftest import DRAWN, grey_pipeline, grey_unet, quantized


pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


class TestHeldBytes:
    def test_packed_buffers_and_what_is_kept_unpacked(self):
        model = grey_unet()
        full = held_bytes(model)
        assert full == sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
        packed = quantized(model)
        assert held_bytes(packed) == sum(each.nbytes for each in (*packed.parameters(), *packed.buffers())) < full / 2
        gz.set_compute_(packed, "dequantized")
        gz.compare(model, packed, **DRAWN)
        assert held_bytes(packed) > full

    def test_state_elsewhere_counts_once(self):
        layer = torch.nn.Linear(4, 4, bias=False)
        layer.weight.quant_state = type("State", (), {})()
        layer.weight.quant_state.absmax = torch.zeros(3)
        layer.scale = [torch.zeros(2), layer.weight]
        layer.tied = layer.weight
        assert held_bytes(layer) == 64 + 12 + 8 and held_bytes(layer, layer) == 84

    def test_meta_and_expanded_tensors_hold_what_they_hold(self):
        layer = torch.nn.Linear(4, 4, bias=False)
        layer.register_buffer("wide", torch.zeros(1).expand(1000))
        layer.register_buffer("nothing", torch.empty(1000, device="meta"))
        assert held_bytes(layer) == 64 + 4


class TestOthersCandidates:
    """Whoever compressed it: as the libraries give it, in a pipeline, saved and opened again."""

    def check(self, unet, tmp_path, smaller):
        original = grey_pipeline(gz.load_model("ddpm-fashion-mnist"))
        candidate = grey_pipeline(unet)
        drawn = DRAWN | {"num_images": 4, "memory": False}
        report = gz.compare(original, candidate, **drawn)
        assert report["sqnr"].candidate.value > 15 and report["psnr"].candidate.value > 15
        assert report["bytes_held"].original.value / report["bytes_held"].candidate.value > smaller
        candidate.save_pretrained(tmp_path / "small")
        again = gz.compare(original, tmp_path / "small", **drawn)
        assert again["psnr"].candidate.value == pytest.approx(report["psnr"].candidate.value, rel=1e-3)
        assert again["bytes_held"].candidate == report["bytes_held"].candidate
        return report.conditions

    @pytest.mark.filterwarnings("ignore")
    def test_sdnq(self, tmp_path):
        sdnq = pytest.importorskip("sdnq", reason="sdnq is not installed")
        found = self.check(self.load(sdnq.SDNQConfig(weights_dtype="uint4", quant_conv=True)), tmp_path, 2.5)
        assert found["compression"]["candidate"]["unet"]["weights_dtype"] == "uint4" and "sdnq" in found["versions"]

    @pytest.mark.filterwarnings("ignore")
    def test_torchao(self, tmp_path):
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        from diffusers import TorchAoConfig

        found = self.check(self.load(TorchAoConfig(quantization.Int8WeightOnlyConfig())), tmp_path, 1.1)
        assert "Int8WeightOnlyConfig" in str(found["compression"]) and "torchao" in found["versions"]

    @pytest.mark.filterwarnings("ignore")
    def test_bitsandbytes(self):
        """Layers in memory: diffusers loads them on GPUs only."""
        nf4 = pytest.importorskip("bitsandbytes.nn", reason="bitsandbytes is not installed")
        original = gz.load_model("ddpm-fashion-mnist")
        candidate = copy.deepcopy(original)
        for name, layer in original.named_modules():
            if isinstance(layer, torch.nn.Linear) and layer.in_features % 64 == 0:
                packed = nf4.Linear4bit(layer.in_features, layer.out_features, compute_dtype=torch.float32)
                packed.weight = nf4.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
                packed.bias = copy.deepcopy(layer.bias)
                candidate.set_submodule(name, packed.to("cpu"))
        before = sum(weight.nbytes for weight in original.parameters())
        report = gz.compare(original, candidate, **DRAWN | {"num_images": 4, "memory": False})
        assert 20 < report["sqnr"].candidate.value < 80 and report["psnr"].candidate.value > 15
        assert report["bytes_held"].candidate.value < before

    def load(self, config):
        from diffusers import UNet2DModel

        from hf_ganzip.assets import asset_path

        options = {"quantization_config": config, "torch_dtype": torch.float32}
        return UNet2DModel.from_pretrained(asset_path("ddpm-fashion-mnist"), **options)
