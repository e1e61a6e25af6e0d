# SPDX-License-Identifier: Apache-2.0
"""Pruned diffusion UNets as files: pipelines, a Hub, shards, skeletons, adapters, damage."""

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
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, prune_

from ..conftest import run, tiny_generator, tiny_unet
from ..hub import LocalHub
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
    def test_from_a_hub(self, model, tmp_path):
        gz.refine_(model, gz.RefineConfig(progress=False))
        DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model.save_pretrained(tmp_path / "unet", max_shard_size="5KB")
        code = (
            "import hf_ganzip, torch\n"
            "from diffusers import AutoModel, DiffusionPipeline, UNet2DModel\n"
            "from tests.conftest import run\n"
            "found = [UNet2DModel.from_pretrained('me/unet'), AutoModel.from_pretrained('me/unet')]\n"
            "found += [hf_ganzip.load_model('me/unet'), DiffusionPipeline.from_pretrained('me/pipeline').unet]\n"
            "assert hf_ganzip.from_config('me/unet').num_parameters() == found[3].num_parameters()\n"
            f"torch.save([run(each) for each in found], {str(tmp_path / 'out.pt')!r})\n"
        )
        with LocalHub({"me/unet": tmp_path / "unet", "me/pipeline": tmp_path / "pipeline"}) as hub:
            hub.run(code, tmp_path / "cache")
            assert any("/me/unet/resolve/" in request for request in hub.requests)
        *quantized, pruned = torch.load(tmp_path / "out.pt")
        assert all(torch.equal(each, run(model)) for each in quantized)
        assert torch.equal(pruned, run(DDPMPipeline.from_pretrained(tmp_path / "pipeline").unet))

    @pytest.mark.process
    def test_fresh_weights_depend_on_the_seed_only(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        code = (
            "import torch, hf_ganzip as gz\n"
            "torch.manual_seed(0)\n"
            f"model = gz.from_config({str(tmp_path)!r})\n"
            "print([round(float(p.sum()), 4) for p in model.parameters()])"
        )
        found = set()
        for seed in ("1", "2"):
            environment = os.environ | {"PYTHONHASHSEED": seed}
            found.add(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))
        assert len(found) == 1

    def test_conditional_networks_in_bfloat16(self):
        model = conditional().to(torch.bfloat16)
        report = prune_(model, PruneConfig("magnitude", 0.5))
        assert report.parameters_after < report.parameters_before and model.dtype == torch.bfloat16

    def test_fresh_weights_leave_the_generator_of_random_numbers_alone(self):
        model, state = tiny_unet(), torch.random.get_rng_state()
        prune_(model, PruneConfig("magnitude", 0.5, init="he"))
        assert torch.equal(torch.random.get_rng_state(), state)

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

    def test_steps_after_saving_keep_what_went_before(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert [step["name"] for step in recorded_steps(model)] == ["prune"]
        gz.refine_(model, gz.RefineConfig(progress=False))
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model.save_pretrained(tmp_path)
        restored = UNet2DModel.from_pretrained(tmp_path)
        assert [step["name"] for step in recorded_steps(restored)] == ["prune", "refine", "quantize"]
        assert torch.equal(run(restored), run(model))

    def test_sharded_and_in_bfloat16(self, model, tmp_path):
        model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
        assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "shards")), run(model))
        half = UNet2DModel.from_pretrained(tmp_path / "shards", torch_dtype=torch.bfloat16)
        assert half.conv_in.weight.dtype == torch.bfloat16
        assert torch.equal(run(half), run(model.to(torch.bfloat16)))
        report = prune_(half, PruneConfig("magnitude", 0.5))
        assert report.parameters_after < report.parameters_before

    def test_it_trains_and_is_cast(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        model = UNet2DModel.from_pretrained(tmp_path).train()
        model(images(2), 3).sample.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert model.half().conv_in.weight.dtype == torch.float16

    def test_skeletons_of_models_and_dicts(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        for source in (model, json.loads((tmp_path / "config.json").read_text()), str(tmp_path)):
            skeleton = gz.from_config(source)
            assert skeleton.num_parameters() == model.num_parameters()
            assert torch.isfinite(run(skeleton)).all()
            skeleton.save_pretrained(tmp_path / "again")
            assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "again")), run(skeleton.eval()))
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

    @pytest.mark.parametrize(
        "damage", [{"shapes": {"conv_in.weight": [4, 3, 3]}, "attributes": {}}, {"shapes": {}}, []]
    )  # more of them in tests/test_structure.py
    def test_damaged_structures(self, model, tmp_path, damage):
        model.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["quantization_config"]["structure"] = damage
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match="structure"):
            UNet2DModel.from_pretrained(tmp_path)
