# SPDX-License-Identifier: Apache-2.0
"""Training of noise predictors: timesteps, averages, grids, pruned structures, teachers, broken losses."""

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel

from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, prune_
from hf_ganzip.training import diffusion_loop
from hf_ganzip.training.diffusion_loop import DiffusionTrainingConfig, antithetic_timesteps, save_pipeline

from ..conftest import run, tiny_unet
from .conftest import broken_at, same, weights
from .loops import train_noise_predictor as train


def test_antithetic_timesteps():
    for count in (7, 8):
        found = antithetic_timesteps(count, 1000, torch.Generator().manual_seed(0))
        half = count // 2 + 1
        assert len(found) == count and 0 <= int(found.min()) and int(found.max()) < 1000
        assert all(int(found[i] + found[half + i]) == 999 for i in range(count - half))


def test_recomputed_activations_change_nothing(tmp_path):
    kept = train(tmp_path / "kept", 2, dropout=0.1)
    recomputed = train(tmp_path / "recomputed", 2, dropout=0.1, gradient_checkpointing=True)
    assert recomputed[0].is_gradient_checkpointing and same(weights(kept), weights(recomputed))


def test_grids_take_as_many_steps_as_they_are_told(tmp_path):
    model, calls = tiny_unet(), []
    model.register_forward_hook(lambda module, args, output: calls.append(module.training))
    train(tmp_path, 1, model=model, validation_steps=1, validation_weights=("trained",), grid_steps=3)
    assert calls == [True, False, False, False]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"grid_steps is {steps}; allowed are 1 to 1000"):
            DiffusionTrainingConfig(str(tmp_path), grid_steps=steps)


def test_a_pruned_network_keeps_its_structure(tmp_path):
    model = tiny_unet()
    prune_(model, PruneConfig("magnitude", 0.5))
    model, average = train(tmp_path, 2, model=model, checkpointing_steps=2, ema_decay=0.5)
    assert not torch.equal(average.conv_in.weight, model.conv_in.weight)
    restored = UNet2DModel.from_pretrained(tmp_path / "checkpoint-2" / "unet_ema")
    assert torch.equal(run(restored), run(average.requires_grad_(True)))
    save_pipeline(average, DiffusionTrainingConfig(str(tmp_path)), tmp_path / "pipeline")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.unet.num_parameters() == model.num_parameters()
    assert [step["name"] for step in recorded_steps(pipeline.unet)] == ["prune"]
    with pytest.raises(ValueError, match="belongs to another network"):
        train(tmp_path, 4, resume_from_checkpoint="latest")


def test_distillation(tmp_path, monkeypatch):
    teacher = tiny_unet()
    model = tiny_unet()
    model.load_state_dict(teacher.state_dict())
    found = {}
    monkeypatch.setattr(diffusion_loop.TrainingRun, "advance", lambda self, losses: found.update(losses))
    train(tmp_path, 1, model=model, teacher=teacher, distillation_weight=0.7)
    assert float(found["distillation"]) == pytest.approx(0, abs=1e-6)
    assert float(found["loss"]) == pytest.approx(0.3 * float(found["noise"]), rel=1e-5)
    with pytest.raises(ValueError, match="needs a teacher"):
        train(tmp_path, 1, distillation_weight=0.5)


def test_class_labels_reach_the_network(tmp_path):
    model = tiny_unet(num_class_embeds=2)
    before = model.class_embedding.weight.detach().clone()
    train(tmp_path, 2, model=model, validation_steps=2)
    assert not torch.equal(model.class_embedding.weight, before)


class TestBadInput:
    def test_images_that_do_not_fit(self, tmp_path):
        with pytest.raises(ValueError, match="the network takes"):
            train(tmp_path, 1, model=tiny_unet(sample_size=16))
        with pytest.raises(ValueError, match="fewer images than one step"):
            train(tmp_path, 1, train_batch_size=64)

    @pytest.mark.parametrize("options", [{"lr_scheduler": "x"}, {"distillation_weight": 2}, {"ema_decay": 1}])
    def test_options(self, options):
        with pytest.raises(ValueError, match="allowed are"):
            DiffusionTrainingConfig("x", **options)

    @pytest.mark.parametrize("broken", [1, 2])
    def test_a_broken_micro_batch_reaches_no_weights(self, tmp_path, monkeypatch, adam_steps, broken):
        monkeypatch.setattr(diffusion_loop, "_squared_error", broken_at(broken, diffusion_loop._squared_error))
        with pytest.raises(FloatingPointError, match="noise, loss is not finite at step 1"):
            train(tmp_path, 2, accumulation=2)
        assert not adam_steps and not list(tmp_path.glob("checkpoint-*"))
