# SPDX-License-Identifier: Apache-2.0
"""The GAN loop: its clock, its steps, what it writes, what it refuses; codebooks in it."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from hf_ganzip.training import average as averaging
from hf_ganzip.training import gan_loop
from hf_ganzip.training.feature_quantization import FQConfig
from hf_ganzip.training.gan_loop import GANTrainingConfig, lazy_adam
from hf_ganzip.training.logs import read_log
from hf_ganzip.training.run import TrainingRun

from .conftest import broken_at, same, weights
from .loops import train_tiny_gan as train


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_clipped_before_each_step_of_an_optimizer(tmp_path, adam_steps, accumulation):
    train(tmp_path / "free", 2, accumulation)
    assert min(norm for _, norm in adam_steps) > 0.02
    adam_steps.clear()
    train(tmp_path / "clipped", 2, accumulation, max_grad_norm=0.01)
    assert [norm for _, norm in adam_steps] == pytest.approx([0.01] * 4, rel=1e-3)


@pytest.mark.parametrize("accumulation, steps", [(1, 10), (2, 4)])
def test_epochs_are_so_many_steps(tmp_path, accumulation, steps):
    train(tmp_path, 1000, accumulation, num_train_epochs=2)  # 40 images in batches of 8
    assert [path.name for path in tmp_path.glob("checkpoint-*") if path.name.endswith(f"-{steps}")]
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [1, steps] and rows[-1]["images"] == steps * 8 * accumulation


def test_the_log_has_losses_and_rates_every_so_many_steps_and_the_bar_every_loss(tmp_path, capsys):
    """Of networks without classes."""
    train(tmp_path, 5, classes=1, logging_steps=2, lr_scheduler="linear", lr_warmup_steps=2)
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 4, 5]
    assert {"images", "loss_d", "loss_g", "r1", "images_per_second"} <= rows[0].keys()
    for name, base in (("lr_g", 0.0025), ("lr_d", 0.0025 * 2 / 3)):  # of the discriminator: R1 every 2 steps
        assert [row[name] for row in rows] == pytest.approx([base * factor for factor in (0, 1 / 2, 2 / 3, 1 / 3)])
    assert "loss_d=" in capsys.readouterr().err.split("\r")[-1]


def test_only_the_weights_that_were_asked_for_are_measured(tmp_path):
    train(tmp_path, 2, validation_steps=2, validate=lambda network: {"x": 1.0}, validation_weights=("trained",))
    assert read_log(tmp_path / "figures.jsonl") == [{"step": 2, "images": 16, "trained_x": 1.0}]
    (path,) = (tmp_path / "samples").iterdir()
    with Image.open(path) as grid:
        assert path.name == "step-0000002-trained.png" and grid.size[0] > grid.size[1]  # 10 columns, one row a class


def test_accumulated_micro_steps_are_one_step(tmp_path, monkeypatch, adam_steps):
    penalties, averages = [], []
    monkeypatch.setattr(
        gan_loop, "r1_penalty", lambda logits, real: penalties.append(1) or logits.sum() * 0 + real.sum() * 0
    )
    monkeypatch.setattr(averaging, "update_ema_", lambda average, model, decay, buffers: averages.append(decay))
    train(tmp_path, 4, accumulation=2, r1_every=2, ema_images=20, ema_rampup=0.5)
    assert len(adam_steps) == 2 * 4  # one of each network
    assert averages == pytest.approx([0.5 ** (16 / min(20, 0.5 * seen)) for seen in (16, 32, 48, 64)])
    assert len(penalties) == 2 * 2  # steps 0 and 2, both micro-steps


@pytest.mark.parametrize(
    "preset, steps, options, lowest",
    [("paper", 40, {"settle_steps": 10, "warmup_steps": 20}, 0.4), ("official", 52, {"update_on": "d"}, 0)],
)
def test_a_codebook_lives_from_its_start_on_and_a_dead_one_is_named(tmp_path, caplog, preset, steps, options, lowest):
    """At a high rate: the features jump and the generator changes."""
    fq = FQConfig(64, preset=preset, weight=1.0, accumulate="step", **options)
    train(tmp_path, steps, fq=fq, logging_steps=1, learning_rate=0.01, discr_learning_rate=0.01)
    used = [row["codes_in_use/b8"] for row in read_log(tmp_path / "log.jsonl") if "codes_in_use/b8" in row]
    assert len(used) == steps - options.get("settle_steps", 0) and min(used) >= lowest * 64
    assert ("codebook at b8 is dead" in caplog.text) == (min(used) < 0.2 * 64) == (preset == "official")


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("broken", [1, 2])
def test_a_broken_micro_batch_reaches_no_weights(tmp_path, monkeypatch, adam_steps, network, broken):
    losses, place = list(gan_loop.LOSSES["logistic"]), network == "generator"
    losses[place] = broken_at(broken, losses[place])
    monkeypatch.setitem(gan_loop.LOSSES, "logistic", losses)
    with pytest.raises(FloatingPointError, match=f"loss_{network[0]} is not finite at step 1"):
        train(tmp_path, 2, accumulation=2, r1_every=0)
    # the discriminator's, before the generator's loss
    assert len(adam_steps) == (network == "generator" and broken == 2)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_accelerator_of_its_own_mind_is_refused(tmp_path):
    class Loop(TrainingRun):
        accumulates = False

    for option, value, allowed in (("mixed_precision", "bf16", "'no'"), ("gradient_accumulation_steps", 2, "1")):
        accelerator = Accelerator(cpu=True, **{option: value})
        with pytest.raises(ValueError, match=f"{option} is {value!r}; allowed is {allowed}"):
            Loop(accelerator, GANTrainingConfig(str(tmp_path)), torch.nn.Identity(), 8)
        AcceleratorState._reset_state()


def test_discriminator_steps_see_images_of_their_own(tmp_path, monkeypatch):
    seen = []

    def record(self, real, labels, random, original=gan_loop._Training.train_discriminator):
        seen.append((real.clone(), labels.clone()))
        return original(self, real, labels, random)

    monkeypatch.setattr(gan_loop._Training, "train_discriminator", record)
    train(tmp_path, 2, discriminator_steps=2, loss="hinge", r1_every=0)
    assert [len(real) for real, _ in seen] == [8] * 4
    first, second, third, fourth = (set(map(bytes, real.flatten(1).numpy())) for real, _ in seen)
    assert not first & second and not third & fourth and not (first | second) & (third | fourth)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gradient_checkpointing": True}, "StyleGAN2Discriminator cannot recompute activations"),
        ({"train_batch_size": 64}, r"fewer images than one step takes \(64\)"),
        ({"accumulation": 2, "discriminator_steps": 2}, "gradient_accumulation_steps"),
    ],
)
def test_runs_that_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, 2, **options)


@pytest.mark.parametrize(
    "wrong",
    [{"loss": "wgan"}, *({name: 0} for name in ("discriminator_steps", "validation_steps", "checkpointing_steps"))]
    + [{"checkpoints_total_limit": 0}, {"max_train_steps": 0}, {"num_train_epochs": 0}, {"logging_steps": 0}]
    + [{"max_grad_norm": -1}, {"lr_scheduler": "x"}, {"lr_warmup_steps": 2}, {"validation_weights": ("best",)}],
)
def test_wrong_options_of_the_losses(wrong):
    with pytest.raises(ValueError, match="allowed (is|are)"):
        GANTrainingConfig(output_dir="x", **wrong)


def test_adam_is_corrected_for_lazy_regularization():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    group = lazy_adam(parameters, 0.002, 16).param_groups[0]
    ratio = 16 / 17
    assert group["lr"] == pytest.approx(0.002 * ratio) and group["betas"] == pytest.approx((0.0, 0.99**ratio))
    group = lazy_adam(parameters, 0.002, 0).param_groups[0]
    assert group["lr"] == 0.002 and group["betas"] == (0.0, 0.99)


def test_bfloat16_leaves_r1_in_float32(tmp_path, monkeypatch):
    dtypes, penalty = set(), gan_loop.r1_penalty
    monkeypatch.setattr(gan_loop, "r1_penalty", lambda x, y: dtypes.add(x.dtype) or penalty(x, y))
    plain = weights(train(tmp_path / "plain", 3))
    mixed = weights(train(tmp_path / "mixed", 3, mixed_precision="bf16"))
    assert dtypes == {torch.float32} and not same(plain, mixed)
    assert all(torch.isfinite(x).all() for x in mixed.values())
    with pytest.raises(ValueError, match="allowed are 'no' and 'bf16'"):
        GANTrainingConfig(output_dir="x", mixed_precision="fp16")


def test_the_loss_of_continuous_codebooks_trains_the_networks_and_of_weight_zero_changes_nothing(tmp_path):
    plain = weights(train(tmp_path / "plain", 4))
    for weight in (0.0, 1.0):
        fq = FQConfig(4, preset="official", weight=weight, accumulate="step")
        found = weights(train(tmp_path / f"{weight}", 4, fq=fq))
        assert same(plain, {name: found[name] for name in plain}) == (weight == 0)
        assert any("codebooks" in name for name in found)
