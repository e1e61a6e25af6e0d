# SPDX-License-Identifier: Apache-2.0
"""Pruned diffusion UNets as files: pipelines, shards, skeletons, adapters, damage."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.pruning import PruneConfig, prune_

from ..conftest import changed, reopened, run, tiny_generator, tiny_unet
from .conftest import conditional, halved, images


class TestSavedForm:
    @pytest.fixture
    def model(self):
        return copy.deepcopy(halved("unet")[0])

    def test_pipelines(self, model, tmp_path):
        DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
        for cls in (DDPMPipeline, DiffusionPipeline):
            assert torch.equal(run(cls.from_pretrained(tmp_path).unet), run(model))

    @pytest.mark.process
    def test_fresh_weights_depend_on_the_seed_only(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        code = (
            "import torch, hf_ganzip as gz\n"
            "torch.manual_seed(0)\n"
            f"torch.save(gz.from_config({str(tmp_path)!r}).state_dict(), {str(tmp_path / 'fresh.pt')!r})\n"
        )
        environment = os.environ | {"PYTHONHASHSEED": "1"}  # the hashes of this process are others
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        torch.manual_seed(0)
        assert not changed(torch.load(tmp_path / "fresh.pt"), gz.from_config(tmp_path))

    def test_conditional_networks_in_bfloat16(self):
        model = conditional().to(torch.bfloat16)
        report = prune_(model, PruneConfig("magnitude", 0.5))
        assert report.parameters_after < report.parameters_before and model.dtype == torch.bfloat16

    def test_a_lora_for_the_dense_network_is_refused(self):
        peft = pytest.importorskip("peft")
        model, dense = conditional(), conditional()
        prune_(model, PruneConfig("random", 0.5))
        config = peft.LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False)
        dense.add_adapter(config)
        before = run(model)
        with pytest.raises((RuntimeError, ValueError), match="size mismatch"):
            model.load_lora_adapter(peft.get_peft_model_state_dict(dense), prefix=None)
        fresh = conditional()
        prune_(fresh, PruneConfig("random", 0.5))
        fresh.add_adapter(config)
        assert run(fresh).shape == before.shape and not torch.equal(run(fresh), before)

    def test_sharded_and_in_bfloat16(self, model, tmp_path):
        model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
        assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "shards")), run(model))
        half = UNet2DModel.from_pretrained(tmp_path / "shards", torch_dtype=torch.bfloat16)
        assert half.conv_in.weight.dtype == torch.bfloat16
        assert torch.equal(run(half), run(model.to(torch.bfloat16)))

    def test_it_trains(self, model, tmp_path):
        model = reopened(model, tmp_path).train()
        model(images(2), 3).sample.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_skeletons_of_models_and_dicts(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        for source in (model, json.loads((tmp_path / "config.json").read_text()), str(tmp_path)):
            skeleton = gz.from_config(source)
            assert skeleton.num_parameters() == model.num_parameters()
            assert torch.isfinite(run(skeleton)).all()
            assert torch.equal(run(reopened(skeleton, tmp_path / "again")), run(skeleton.eval()))
        assert gz.from_config(tiny_generator()).num_parameters() == tiny_generator().num_parameters()

    def test_weights_of_another_structure_are_refused(self, model, tmp_path):
        other = tiny_unet()
        with pytest.raises(RuntimeError, match="size mismatch"):
            model.load_state_dict(other.state_dict())
        model.save_pretrained(tmp_path)
        other.save_pretrained(tmp_path / "dense")
        shutil.copy(tmp_path / "dense" / "diffusion_pytorch_model.safetensors", tmp_path)
        with pytest.raises(ValueError, match="shape"):
            UNet2DModel.from_pretrained(tmp_path)
