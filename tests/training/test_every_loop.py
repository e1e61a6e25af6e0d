# SPDX-License-Identifier: Apache-2.0
"""What holds for every training loop: exact resume, the same result for every number of processes and micro-batches,
what is written beside checkpoints, learning rates.
"""

import pytest
import torch

from hf_ganzip.models.stylegan3_layers import SynthesisLayer
from hf_ganzip.training.augment import twice_differentiable
from hf_ganzip.training.feature_quantization import FQConfig
from hf_ganzip.training.logs import read_log
from hf_ganzip.training.run import TrainingRun
from hf_ganzip.training.run_config import LR_SCHEDULERS, RunConfig, make_scheduler

from ..conftest import tiny_stylegan3
from ..processes import run_processes
from .conftest import close, join_group, same, weights
from .loops import train_distillation, train_noise_predictor, train_tiny_gan, train_translators


OFFICIAL = {"fq": FQConfig(4, preset="official", accumulate="step")}
LIVING = {"fq": FQConfig(4, settle_steps=1, warmup_steps=3, anneal_steps=2, accumulate="step")}
AUGMENTED = {"family": "stylegan3", "path_every": 0, "ada_target": 0.6 if twice_differentiable() else None}
SCHEDULED = {"lr_scheduler": "cosine", "lr_warmup_steps": 1, "max_grad_norm": 0.5}
GROUPED = SCHEDULED | {"class_group_size": 4, "dataloader_num_workers": 1}


@pytest.mark.parametrize(
    "train, steps, options",
    [  # 8 steps cross an epoch
        pytest.param(train_tiny_gan, 8, {}, id="gan", marks=pytest.mark.processor),
        pytest.param(train_tiny_gan, 8, GROUPED, id="gan, groups and rates", marks=pytest.mark.processor),
        pytest.param(train_tiny_gan, 4, OFFICIAL, id="gan, official codebooks"),
        pytest.param(train_tiny_gan, 4, LIVING, id="gan, living codebooks"),
        pytest.param(train_tiny_gan, 4, OFFICIAL | {"accumulation": 2}, id="gan, official codebooks, micro-batches"),
        pytest.param(train_tiny_gan, 4, LIVING | {"accumulation": 2}, id="gan, living codebooks, micro-batches"),
        pytest.param(train_distillation, 8, {}, id="distillation"),
        pytest.param(train_distillation, 8, AUGMENTED, id="distillation, augmented"),
        pytest.param(train_noise_predictor, 8, {}, id="diffusion"),
        pytest.param(train_noise_predictor, 8, SCHEDULED | {"dropout": 0.1}, id="diffusion, rates and dropout"),
        pytest.param(train_translators, 4, {}, id="translation"),
        pytest.param(train_translators, 4, {"quantized": True}, id="translation, codebooks"),
    ],
)
def test_a_resumed_run_is_an_uninterrupted_run(tmp_path, monkeypatch, train, steps, options):
    options = options | {"checkpointing_steps": steps // 2}
    whole = weights(train(tmp_path / "whole", steps, **options))

    def interrupted(self, losses):
        if self.step > steps // 2:
            raise KeyboardInterrupt
        return advance(self, losses)

    advance = TrainingRun.advance
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingRun, "advance", interrupted)
        train(tmp_path / "parts", steps, **options)
    torch.manual_seed(99)
    assert same(whole, weights(train(tmp_path / "parts", steps, resume_from_checkpoint="latest", **options)))


@pytest.mark.parametrize("train", [train_tiny_gan, train_distillation])
def test_magnitudes_of_a_stylegan3_move_in_the_phase_of_the_discriminator(tmp_path, monkeypatch, train):
    moved, beta, move = [], 0.999, SynthesisLayer.update_magnitude_
    monkeypatch.setattr(SynthesisLayer, "update_magnitude_", lambda self, x: moved.append(self) or move(self, x))
    of = (
        {"generator": tiny_stylegan3(resolution=8, num_classes=2)}
        if train is train_tiny_gan
        else {"family": "stylegan3"}
    )
    generator, _, average = train(tmp_path, 3, **of)
    layers = [getattr(generator.synthesis, name) for name in generator.synthesis.layer_names]
    assert moved == 3 * layers
    for name in generator.synthesis.layer_names:
        kept = getattr(generator.synthesis, name).magnitude_ema
        assert (
            0 < abs(kept - 1) and kept > beta**3 and torch.equal(kept, getattr(average.synthesis, name).magnitude_ema)
        )


@pytest.mark.parametrize(
    "train, parts, adam_steps_of_three",
    [  # of distillation: one of each network, and path lengths and R1 at steps 0 and 2
        (train_distillation, {"gradient_accumulation_steps": 4}, 3 * 2 + 2 * 2),
        (train_noise_predictor, {"accumulation": 4}, 3),
    ],
)
def test_micro_batches_do_not_matter(tmp_path, adam_steps, train, parts, adam_steps_of_three):
    whole = shared(train(tmp_path / "whole", 3))
    adam_steps.clear()
    parts = shared(train(tmp_path / "parts", 3, train_batch_size=2, **parts))
    assert len(adam_steps) == adam_steps_of_three
    close(whole, parts, 2e-4)


def shared(models):
    """Weights without averages of styles: each process and micro-batch has its own."""
    return {name: value for name, value in weights(models).items() if not name.endswith("w_avg")}


GROUPS = {  # loop, images a step, options
    "gan": (train_tiny_gan, 8, {}),
    "gan, codebooks": (train_tiny_gan, 8, OFFICIAL),
    "gan, living codebooks": (train_tiny_gan, 8, LIVING),
    "distillation": (train_distillation, 8, {}),
    "diffusion": (train_noise_predictor, 8, SCHEDULED | {"dataloader_num_workers": 1}),
    "translation": (train_translators, 2, {}),
}


def train_in_a_group(rank, count, folder, name, resumes):
    """Weights of a run, and of one that stopped and went on."""
    join_group(rank, count)
    train, images, options = GROUPS[name]
    options = options | {"train_batch_size": images // count, "checkpointing_steps": 2}
    whole = shared(train(f"{folder}/whole", 3, **options))
    if not resumes:
        return whole, whole
    train(f"{folder}/parts", 2, **options)
    return whole, shared(train(f"{folder}/parts", 3, resume_from_checkpoint="latest", **options))


@pytest.mark.process
@pytest.mark.parametrize(
    "name, rtol, resumes",
    [
        ("gan", None, True),
        ("gan, codebooks", None, True),
        ("gan, living codebooks", None, True),
        ("distillation", 2e-4, True),
        ("diffusion", 2e-4, False),
        ("translation", 2e-3, False),
    ],
)
def test_two_processes_stay_equal_and_are_one_with_twice_the_batch(tmp_path, name, rtol, resumes):
    train, images, options = GROUPS[name]
    (whole, parts), others = run_processes(train_in_a_group, 2, tmp_path, str(tmp_path), name, resumes)
    assert same(whole, others[0]) and same(parts, others[1])
    if rtol is None:  # every process draws its own latents: other ones than one with twice the batch
        assert same(whole, parts)
    else:
        close(whole, parts, 1e-5)
        close(shared(train(tmp_path / "alone", 3, train_batch_size=images, **options)), whole, rtol, 2e-4)


@pytest.mark.parametrize("train", [train_tiny_gan, train_distillation, train_noise_predictor])
def test_figures_and_grids_of_both_weights_disturb_nothing(tmp_path, train):
    seen = []

    def validate(network):
        seen.append(network)
        return {"x": float(torch.rand(1) < 2)}

    plain = weights(train(tmp_path / "plain", 4))
    trained, *others = train(tmp_path, 4, validation_steps=2, validate=validate)
    assert same(plain, weights([trained, *others]))
    assert seen == [others[-1], trained] * 2 and trained.training and not others[-1].training
    assert read_log(tmp_path / "figures.jsonl") == [
        {"step": step, "images": 8 * step, "average_x": 1.0, "trained_x": 1.0} for step in (2, 4)
    ]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"step-000000{step}-{weights}.png" for step in (2, 4) for weights in ("average", "trained")
    ]


@pytest.mark.parametrize(
    "name, warmup, factors",
    [
        ("linear", 2, [0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("constant_with_warmup", 2, [0, 1 / 2, 1, 1, 1, 1, 1, 1]),
        ("linear_second_half", 0, [1, 1, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4]),
    ],
)
def test_learning_rates(name, warmup, factors):
    config = RunConfig("x", max_train_steps=len(factors), lr_scheduler=name, lr_warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, found = make_scheduler(optimizer, config), []
    for _ in factors:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([0.5 * factor for factor in factors])
    assert all(make_scheduler(optimizer, RunConfig("x", lr_scheduler=each)) for each in LR_SCHEDULERS)
