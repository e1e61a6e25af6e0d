# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning by distillation: its terms, its ablations, what it refuses, whole checkpoints."""

import copy
import multiprocessing
import os
import random
import threading
import time

import pytest
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

import hf_ganzip as gz
from hf_ganzip.training import distillation_loop, distilled_networks
from hf_ganzip.training.distillation_config import DISTILLATION_PRESETS, DistillationConfig
from hf_ganzip.training.feature_quantization import FQConfig, add_feature_quantizers
from hf_ganzip.training.logs import read_log

from ..conftest import run, tiny_discriminator, tiny_generator
from .conftest import broken_at, same, weights
from .loops import distance, networks_to_distill
from .loops import train_distillation as train


def test_augmentation_with_r1_is_refused_where_torch_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation_loop, "twice_differentiable", lambda: False)
    with pytest.raises(ValueError, match="needs torch 2.12 or newer, and this is .* or set ada_target to None"):
        train(tmp_path / "out", 1, ada_target=0.6)
    assert not (tmp_path / "out").exists()
    train(tmp_path / "out", 1, ada_target=0.6, r1_every=0)


class TestTerms:
    def test_a_student_like_its_teacher_has_no_distance(self, tmp_path, monkeypatch):
        found = {}
        _, teacher, discriminator = networks_to_distill()
        for name, parameter in teacher.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.zero_()
        monkeypatch.setattr(distillation_loop.TrainingRun, "advance", lambda self, losses: found.update(losses))
        train(tmp_path, 1, made=(copy.deepcopy(teacher), teacher, discriminator), path_every=0)
        for term in ("rgb", "perceptual", "relation"):
            assert float(found[term]) == pytest.approx(0, abs=1e-6)
        assert float(found["adversarial"]) > 0

    def test_a_weight_of_zero_removes_a_term(self, tmp_path):
        train(tmp_path, 1, rgb_weight=0, perceptual_weight=0, relation_weight=0, path_weight=0, perceptual=None)
        (row,) = read_log(tmp_path / "log.jsonl")
        assert {"adversarial", "loss_d", "r1", "real"} <= row.keys()
        assert not {"rgb", "perceptual", "relation", "path"} & row.keys()

    def test_a_mask_of_ones_is_no_mask(self, tmp_path):
        plain = weights(train(tmp_path / "plain", 2))
        assert same(plain, weights(train(tmp_path / "masked", 2, mask=lambda images: torch.ones_like(images[:, :1]))))

    def test_bfloat16_leaves_penalties_in_float32(self, tmp_path, monkeypatch):
        dtypes = {}

        def recorded(name, original):
            def record(*args):
                dtypes[name] = {x.dtype for x in args}
                return original(*args)

            return record

        for module, name in ((distillation_loop, "r1_penalty"), (distilled_networks, "path_lengths")):
            monkeypatch.setattr(module, name, recorded(name, getattr(module, name)))
        train(tmp_path, 2, mixed_precision="bf16", perceptual=recorded("perceptual", distance))
        assert all(found == {torch.float32} for found in dtypes.values()) and len(dtypes) == 3


@pytest.mark.parametrize("options", [{"spectral_norm": True}, {"svs_every": 1}])
def test_ablations_train_and_give_plain_models(tmp_path, options):
    plain = weights(train(tmp_path / "plain", 4))
    student, _, average = train(tmp_path / "ablation", 4, **options)
    assert not all(
        torch.equal(value, plain[f"0.{name}"]) for name, value in student.state_dict().items() if f"0.{name}" in plain
    )
    average.save_pretrained(tmp_path / "average")
    restored = gz.StyleGAN2Generator.from_pretrained(tmp_path / "average")
    assert restored.state_dict().keys() == tiny_generator().state_dict().keys()
    assert torch.equal(run(restored.requires_grad_(False)), run(average.requires_grad_(False)))


class TestBadInput:
    def test_networks_and_images_that_do_not_fit(self, tmp_path):
        student, teacher, discriminator = networks_to_distill()
        quantized = tiny_discriminator(channels=(8, 8, 4))
        add_feature_quantizers(quantized, {"b8": FQConfig(4)})
        for message, options in {
            "images are": {"side": 8},
            "perceptual_weight needs": {"perceptual": None},
            "remove_feature_quantizers first": {"made": (student, teacher, quantized)},
            "z_dim is": {"made": (tiny_generator(z_dim=4), teacher, discriminator)},
            "gradient_accumulation_steps is 0": {"gradient_accumulation_steps": 0},
            "multiples of relation_batch": {"train_batch_size": 6, "relation_batch": 4},
        }.items():
            with pytest.raises(ValueError, match=message):
                train(tmp_path, 1, **options)

    def test_a_broken_term_is_named_and_spares_the_checkpoint(self, tmp_path):
        message = "perceptual is not finite at step 5; the last checkpoint is whole"
        with pytest.raises(FloatingPointError, match=message):
            train(tmp_path, 8, perceptual=broken_at(5, distance))
        assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-4"]
        restored = gz.StyleGAN2Generator.from_pretrained(tmp_path / "checkpoint-4" / "generator_ema")
        assert torch.isfinite(run(restored)).all()

    def test_a_full_disk_leaves_the_last_checkpoint(self, tmp_path, monkeypatch):
        save, calls = Accelerator.save_state, []

        def full(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return save(self, *args, **kwargs)

        monkeypatch.setattr(Accelerator, "save_state", full)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path, 4, checkpointing_steps=2)
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
        monkeypatch.undo()
        train(tmp_path, 4, checkpointing_steps=2, resume_from_checkpoint="latest")


def train_until_killed(folder, started):
    tqdm.set_lock(threading.RLock())  # the usual one is shared with other processes, and would stay locked
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    started.send(True)
    options = {"train_batch_size": 2, "checkpointing_steps": 1, "path_every": 0, "resume_from_checkpoint": "latest"}
    train(folder, 10_000, **options)


@pytest.mark.process
def test_killed_at_random_moments_it_always_resumes(tmp_path):
    """Twenty times: a training is killed, also while it writes, and the next one goes on from a whole checkpoint."""
    moments, steps, context = random.Random(0), [], multiprocessing.get_context("forkserver")
    for _ in range(20):
        ready, started = context.Pipe(duplex=False)
        child = context.Process(target=train_until_killed, args=(tmp_path, started))
        child.start()
        assert ready.recv()
        time.sleep(0.4 + moments.random() * 0.6)
        child.kill()
        child.join()
        found = list(tmp_path.glob("checkpoint-*"))
        steps.append(max((int(path.name.split("-")[1]) for path in found), default=0))
        for path in found:
            gz.StyleGAN2Generator.from_pretrained(path / "generator_ema")
            assert (path / "model.safetensors").is_file() and (path / "random_states_0.pkl").is_file()
    assert steps == sorted(steps) and steps[-1] > 20
    final = train(tmp_path, steps[-1] + 2, train_batch_size=2, path_every=0, resume_from_checkpoint="latest")
    assert all(torch.isfinite(value).all() for value in weights(final).values())


@pytest.mark.parametrize("name", sorted(DISTILLATION_PRESETS))
def test_presets(name):
    config = DistillationConfig("x", **DISTILLATION_PRESETS[name])
    published = {"svs-stylegan2-small": 25_000_000, "svs-stylegan3-t": 10_000_000, "dcp-stylegan2": 450_001 * 16}
    assert config.max_train_steps * config.train_batch_size == published.get(name, 15_000_000)
    assert 0.5 ** (config.train_batch_size / config.ema_images) == pytest.approx(0.997784, abs=1e-6)
    assert config.ema_rampup == (0.05 if name in ("stylegan2", "svs-stylegan3-t") else 0)  # as published
