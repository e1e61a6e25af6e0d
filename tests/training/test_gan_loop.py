# SPDX-License-Identifier: Apache-2.0
"""The loop resumes exactly, keeps one clock, and leaves no torsos; on one process and on two."""

import json
import math
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from hf_ganzip.models import StyleGAN2Generator
from hf_ganzip.training import average as averaging
from hf_ganzip.training import gan_loop
from hf_ganzip.training.feature_quantization import FQConfig, add_feature_quantizers
from hf_ganzip.training.gan_loop import GANTrainingConfig, lazy_adam, train_gan
from hf_ganzip.training.logs import read_log
from hf_ganzip.training.run import TrainingRun

from ..conftest import tiny_discriminator, tiny_generator
from ..processes import run_processes
from .conftest import cpu_accelerator, images, join_group, same, weights


def train(folder, steps, accumulation=1, classes=2, validate=None, fq=None, **options):
    """Train tiny networks on batches of 8, 5 micro-steps an epoch; (generator, discriminator, average)."""
    torch.manual_seed(1)
    networks = {"resolution": 8, "channels": (8, 4), "num_classes": classes if classes > 1 else 0}
    generator, discriminator = tiny_generator(**networks).train(), tiny_discriminator(**networks).train()
    if fq is not None:
        add_feature_quantizers(discriminator, {"b8": fq})
    accelerator = cpu_accelerator(gradient_accumulation_steps=accumulation)
    options = {"train_batch_size": 8, "r1_every": 2, "validation_steps": 1000, "checkpointing_steps": 4} | options
    config = GANTrainingConfig(output_dir=str(folder), max_train_steps=steps, **options)
    average = train_gan(generator, discriminator, images(classes=classes), config, accelerator, validate)
    return generator, discriminator, average


@pytest.mark.processor
@pytest.mark.parametrize("class_group_size", [1, 4])
def test_a_resumed_run_is_an_uninterrupted_run(tmp_path, class_group_size):
    options = {"class_group_size": class_group_size}
    whole = weights(train(tmp_path / "whole", 8, **options))  # crosses an epoch of 5 steps
    train(tmp_path / "parts", 4, **options)
    torch.manual_seed(99)
    parts = train(tmp_path / "parts", 8, resume_from_checkpoint="latest", **options)
    assert same(whole, weights(parts))
    saved = [tmp_path / name / "checkpoint-8" for name in ("whole", "parts")]
    for name in ("optimizer.bin", "optimizer_1.bin"):
        left, right = (torch.load(path / name, weights_only=True)["state"] for path in saved)
        assert all(torch.equal(left[i][key], right[i][key]) for i in left for key in ("exp_avg_sq", "step"))


def interrupt(network):
    raise KeyboardInterrupt


def test_a_resumed_run_goes_on_with_its_learning_rates(tmp_path):
    options = {"lr_scheduler": "linear", "lr_warmup_steps": 2, "max_grad_norm": 0.1, "logging_steps": 1}
    whole = weights(train(tmp_path / "whole", 8, **options))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 8, validation_steps=5, validate=interrupt, **options)
    parts = train(tmp_path / "parts", 8, dataloader_num_workers=1, resume_from_checkpoint="latest", **options)
    assert same(whole, weights(parts))
    for name, base in (("lr_g", 0.0025), ("lr_d", 0.0025 * 2 / 3)):  # of the discriminator: R1 every 2 steps
        wanted = [base * factor for factor in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
        for folder in ("whole", "parts"):
            assert [row[name] for row in read_log(tmp_path / folder / "log.jsonl")] == pytest.approx(wanted)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_clipped_before_each_step_of_an_optimizer(tmp_path, monkeypatch, accumulation):
    norms, step = [], torch.optim.Adam.step

    def record(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([each.norm() for each in gradients]).norm()))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    train(tmp_path / "free", 2, accumulation)
    assert min(norms) > 0.02
    norms.clear()
    train(tmp_path / "clipped", 2, accumulation, max_grad_norm=0.01)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


@pytest.mark.parametrize("accumulation, steps", [(1, 10), (2, 4)])
def test_epochs_are_so_many_steps(tmp_path, accumulation, steps):
    train(tmp_path, 1000, accumulation, num_train_epochs=2)  # 40 images in batches of 8
    assert [path.name for path in tmp_path.glob("checkpoint-*") if path.name.endswith(f"-{steps}")]
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [1, steps] and rows[-1]["images"] == steps * 8 * accumulation


def test_the_log_has_a_line_every_so_many_steps_and_the_bar_every_loss(tmp_path, capsys):
    train(tmp_path, 5, logging_steps=2)
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 4, 5]
    assert "loss_d=" in capsys.readouterr().err.split("\r")[-1]


def test_networks_that_cannot_recompute_activations(tmp_path):
    with pytest.raises(ValueError, match="StyleGAN2Discriminator cannot recompute activations"):
        train(tmp_path, 1, gradient_checkpointing=True)


def test_only_the_weights_that_were_asked_for_are_measured(tmp_path):
    train(tmp_path, 2, validation_steps=2, validate=lambda network: {"x": 1.0}, validation_weights=("trained",))
    assert read_log(tmp_path / "figures.jsonl") == [{"step": 2, "images": 16, "trained_x": 1.0}]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-0000002-trained.png"]


def test_accumulated_micro_steps_are_one_step(tmp_path, monkeypatch, adam_steps):
    penalties, averages = [], []
    monkeypatch.setattr(
        gan_loop, "r1_penalty", lambda logits, real: penalties.append(1) or logits.sum() * 0 + real.sum() * 0
    )
    monkeypatch.setattr(averaging, "update_ema_", lambda average, model, decay, buffers: averages.append(decay))
    train(tmp_path, 4, accumulation=2, r1_every=2, ema_images=32, ema_rampup=0)
    assert len(adam_steps) == 2 * 4  # one of each network
    assert len(averages) == 4 and averages == pytest.approx([0.5 ** (16 / 32)] * 4)  # 16 images a step
    assert len(penalties) == 2 * 2  # steps 0 and 2, both micro-steps
    assert (tmp_path / "checkpoint-4").is_dir()


def stop(network=None):
    """Validation that asks the run to end."""
    os.kill(os.getpid(), signal.SIGTERM)
    return {}


def test_a_stop_in_the_last_step_is_the_end(tmp_path):
    train(tmp_path, 3, validation_steps=3, validate=stop)
    assert (tmp_path / "checkpoint-3").is_dir()


class TestUsedFolders:
    def test_a_run_that_is_not_continued_is_left_alone(self, tmp_path):
        train(tmp_path, 4)
        before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
        with pytest.raises(
            FileExistsError, match="continue it with resume_from_checkpoint 'latest', or choose another"
        ):
            train(tmp_path, 2)
        with pytest.raises(FileExistsError):
            train(tmp_path / "other", 2)
            train(tmp_path / "other", 3, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if "other" not in str(p)) == before

    def test_an_older_checkpoint_forgets_what_came_later(self, tmp_path):
        figures = {"validation_steps": 2, "validate": lambda network: {"x": 1.0}}
        train(tmp_path, 8, checkpointing_steps=2, checkpoints_total_limit=9, **figures)
        with open(tmp_path / "log.jsonl", "a") as log:
            log.write('{"step": 8, "los')  # killed while it wrote
        train(tmp_path, 6, resume_from_checkpoint=str(tmp_path / "checkpoint-4"), checkpoints_total_limit=2, **figures)
        assert [row["step"] for row in read_log(tmp_path / "figures.jsonl")] == [2, 4, 6]
        assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 6]
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def stopped_in_a_group(rank, count, folder):
    join_group(rank, count)
    steps, original = [], TrainingRun.after_step

    def after_step(self, losses):
        steps.append(self.step + 1)
        if rank == 1 and steps[-1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, losses)

    TrainingRun.after_step = after_step
    try:
        train(folder, 6, train_batch_size=4)
    except SystemExit:
        steps.append(-1)
    return {"steps": torch.tensor(steps)}


@pytest.mark.process
def test_a_signal_to_one_process_stops_all(tmp_path):
    for found in run_processes(stopped_in_a_group, 2, tmp_path, str(tmp_path / "run")):
        assert found["steps"].tolist() == [1, 2, -1]
    assert [path.name for path in tmp_path.glob("run/checkpoint-*")] == ["checkpoint-2"]


LIVING = {"preset": "paper", "settle_steps": 1, "warmup_steps": 3, "anneal_steps": 2}


@pytest.mark.parametrize("fq", [{"preset": "official"}, LIVING], ids=["official", "paper"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_with_codebooks_is_an_uninterrupted_run(tmp_path, fq, accumulation):
    options = {"fq": FQConfig(4, accumulate="step", **fq), "accumulation": accumulation}
    whole = weights(train(tmp_path / "whole", 4, **options))
    train(tmp_path / "parts", 2, **options)
    assert same(whole, weights(train(tmp_path / "parts", 4, resume_from_checkpoint="latest", **options)))


def test_a_codebook_lives_from_its_start_on_and_a_dead_one_is_named(tmp_path, caplog):
    """At a high rate: the features jump and the generator changes."""
    options = {"learning_rate": 0.01, "discr_learning_rate": 0.01, "logging_steps": 1}
    name, least = "codes_in_use/b8", {}
    for preset, steps, more in (
        ("paper", 40, {"settle_steps": 10, "warmup_steps": 20}),
        ("official", 52, {"update_on": "d"}),
    ):
        train(
            tmp_path / preset, steps, fq=FQConfig(64, preset=preset, weight=1.0, accumulate="step", **more), **options
        )
        rows = read_log(tmp_path / preset / "log.jsonl")
        used = {row["step"]: row[name] for row in rows if name in row}
        assert set(used) == set(range(1 + more.get("settle_steps", 0), steps + 1))
        least[preset] = min(used.values()) / 64
        named = "codebook at b8 is dead" in caplog.text
        assert named == (preset == "official")
    assert least["paper"] >= 0.4 and least["official"] < 0.2


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("broken", [1, 2])
def test_a_broken_micro_batch_reaches_no_weights(tmp_path, monkeypatch, adam_steps, network, broken):
    loss_d, loss_g = gan_loop.LOSSES["logistic"]
    calls = []

    def breaks(*logits):
        calls.append(1)
        loss = loss_d(*logits) if network == "discriminator" else loss_g(*logits)
        return loss * (math.nan if len(calls) == broken else 1)

    pair = (breaks, loss_g) if network == "discriminator" else (loss_d, breaks)
    monkeypatch.setitem(gan_loop.LOSSES, "logistic", pair)
    with pytest.raises(FloatingPointError, match=f"loss_{network[0]} is not finite at step 1"):
        train(tmp_path, 2, accumulation=2, r1_every=0)
    assert len(adam_steps) == (
        network == "generator" and broken == 2
    )  # the discriminator's, before the generator's loss
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_accelerator_of_its_own_mind_is_refused(tmp_path):
    class Loop(TrainingRun):
        accumulates = False

    for option, value, allowed in (("mixed_precision", "bf16", "'no'"), ("gradient_accumulation_steps", 2, "1")):
        accelerator = Accelerator(cpu=True, **{option: value})
        with pytest.raises(ValueError, match=f"{option} is {value!r}; allowed is {allowed}"):
            Loop(accelerator, GANTrainingConfig(str(tmp_path)), torch.nn.Identity(), 8)
        AcceleratorState._reset_state()


def test_fewer_images_than_a_step_takes(tmp_path):
    with pytest.raises(ValueError, match=r"fewer images than one step takes \(64\)"):
        train(tmp_path, 2, train_batch_size=64)


def test_a_stop_request_saves_a_whole_checkpoint(tmp_path):
    whole = weights(train(tmp_path / "whole", 6))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="stopped at step 3; continue with resume_from_checkpoint 'latest'"):
        train(tmp_path / "stopped", 6, validation_steps=3, validate=stop)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in tmp_path.glob("stopped/checkpoint*")] == ["checkpoint-3"]
    assert same(whole, weights(train(tmp_path / "stopped", 6, resume_from_checkpoint="latest")))


def test_torsos_are_ignored_and_old_checkpoints_go(tmp_path):
    (tmp_path / "checkpoint.partial").mkdir()
    (tmp_path / "checkpoint.partial" / "model.safetensors").write_bytes(b"torso")
    train(tmp_path, 6, checkpointing_steps=2, resume_from_checkpoint="latest")
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == [f"checkpoint-{step}" for step in (2, 4, 6)]
    options = {"checkpointing_steps": 2, "checkpoints_total_limit": 2, "resume_from_checkpoint": "latest"}
    train(tmp_path, 8, **options)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-6", "checkpoint-8"]
    restored = StyleGAN2Generator.from_pretrained(tmp_path / "checkpoint-6" / "generator_ema")
    assert restored.config.resolution == 8


def test_resuming_from_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="use 'latest' or a checkpoint-STEP folder"):
        train(tmp_path, 2, resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_a_broken_loss_ends_the_run_and_spares_the_checkpoint(tmp_path, monkeypatch):
    train(tmp_path, 4)
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoint-4").rglob("*") if path.is_file()}
    logistic = gan_loop.LOSSES["logistic"]
    monkeypatch.setitem(gan_loop.LOSSES, "logistic", (logistic[0], lambda logits: logits.sum() * math.nan))
    with pytest.raises(FloatingPointError, match="loss_g is not finite at step 5; the last checkpoint is whole"):
        train(tmp_path, 8, resume_from_checkpoint="latest")
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-4"]


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


def test_discriminator_steps_do_not_accumulate(tmp_path):
    with pytest.raises(ValueError, match="gradient_accumulation_steps"):
        train(tmp_path, 2, accumulation=2, discriminator_steps=2)


@pytest.mark.parametrize(
    "wrong",
    [{"loss": "wgan"}, *({name: 0} for name in ("discriminator_steps", "validation_steps", "checkpointing_steps"))]
    + [{"checkpoints_total_limit": 0}, {"max_train_steps": 0}, {"num_train_epochs": 0}, {"logging_steps": 0}]
    + [{"max_grad_norm": -1}, {"lr_scheduler": "x"}, {"lr_warmup_steps": 2}, {"validation_weights": ("best",)}],
)
def test_wrong_options_of_the_losses(wrong):
    with pytest.raises(ValueError, match="allowed (is|are)"):
        GANTrainingConfig(output_dir="x", **wrong)


def test_half_life_of_the_average_ramps_up(tmp_path, monkeypatch):
    decays = []
    monkeypatch.setattr(averaging, "update_ema_", lambda average, model, decay, buffers: decays.append(decay))
    train(tmp_path, 3, ema_images=20, ema_rampup=0.5)
    assert decays == pytest.approx([0.5 ** (8 / min(20, 0.5 * seen)) for seen in (8, 16, 24)])


def test_adam_is_corrected_for_lazy_regularization():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    group = lazy_adam(parameters, 0.002, 16).param_groups[0]
    ratio = 16 / 17
    assert group["lr"] == pytest.approx(0.002 * ratio) and group["betas"] == pytest.approx((0.0, 0.99**ratio))
    group = lazy_adam(parameters, 0.002, 0).param_groups[0]
    assert group["lr"] == 0.002 and group["betas"] == (0.0, 0.99)


def test_bfloat16_leaves_r1_in_float32(tmp_path, monkeypatch):
    dtypes = {}
    penalty, (loss_d, loss_g) = gan_loop.r1_penalty, gan_loop.LOSSES["logistic"]
    monkeypatch.setattr(gan_loop, "r1_penalty", lambda x, y: dtypes.setdefault("r1", x.dtype) and penalty(x, y))
    recorded = (loss_d, lambda x: dtypes.setdefault("g", x.dtype) and loss_g(x))
    monkeypatch.setitem(gan_loop.LOSSES, "logistic", recorded)
    plain = weights(train(tmp_path / "plain", 3))
    dtypes.clear()
    mixed = weights(train(tmp_path / "mixed", 3, mixed_precision="bf16"))
    assert dtypes["r1"] == torch.float32
    assert not same(plain, mixed)
    assert all(torch.isfinite(x).all() for x in mixed.values())
    with pytest.raises(ValueError, match="allowed are 'no' and 'bf16'"):
        GANTrainingConfig(output_dir="x", mixed_precision="fp16")


def test_log_figures_and_sample_grids(tmp_path):
    seen = []

    def validate(network):
        seen.append(network)
        torch.rand(3)  # must not disturb the training
        return {"quality": 0.5}

    plain = weights(train(tmp_path / "plain", 4))
    generator, discriminator, average = train(tmp_path, 4, validation_steps=2, validate=validate)
    assert same(plain, weights((generator, discriminator, average)))
    assert seen == [average, generator] * 2 and generator.training and not average.training
    assert read_log(tmp_path / "figures.jsonl") == [
        {"step": 2, "images": 16, "average_quality": 0.5, "trained_quality": 0.5},
        {"step": 4, "images": 32, "average_quality": 0.5, "trained_quality": 0.5},
    ]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1 and lines[0]["images"] == 8
    assert {"loss_d", "loss_g", "r1", "images_per_second"} <= lines[0].keys()
    grids = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in grids] == [
        f"step-000000{step}-{weights}.png" for step in (2, 4) for weights in ("average", "trained")
    ]
    with Image.open(grids[0]) as grid:
        assert grid.size[0] > grid.size[1] > 0  # 10 columns, one row a class


def test_unconditional_models_train(tmp_path):
    before = weights([tiny_generator(resolution=8, channels=(8, 4), num_classes=0)])
    after = train(tmp_path, 2, classes=1)
    assert not same(before, weights(after[:1]))


def train_in_a_group(rank, count, folder):
    join_group(rank, count)
    whole = train(f"{folder}/whole", 4, train_batch_size=4)
    train(f"{folder}/parts", 2, train_batch_size=4, checkpointing_steps=2)
    return weights(whole + train(f"{folder}/parts", 4, train_batch_size=4, resume_from_checkpoint="latest"))


@pytest.mark.process
def test_two_processes_stay_equal_and_resume_exactly(tmp_path):
    first, second = run_processes(train_in_a_group, 2, tmp_path, str(tmp_path))
    assert all(torch.equal(x, first[f"{int(name[0]) + 3}{name[1:]}"]) for name, x in first.items() if name[0] in "012")
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert all(name.endswith("w_avg") for name in different)  # each process averages the styles of its own samples
    assert (tmp_path / "whole" / "checkpoint-4" / "random_states_1.pkl").is_file()


def test_continuous_feature_quantizers_of_weight_zero_change_nothing(tmp_path):
    plain = weights(train(tmp_path / "plain", 4))
    silent = FQConfig(4, preset="official", weight=0.0, accumulate="step")
    found = weights(train(tmp_path / "quantized", 4, fq=silent))
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    assert any("codebooks" in name for name in found)


def train_quantized(rank, world, folder):
    join_group(rank, world)
    fq = FQConfig(4, preset="official", accumulate="step")
    return train(folder, 3, fq=fq, train_batch_size=4)[1].state_dict()


@pytest.mark.process
def test_two_processes_have_the_same_codebooks(tmp_path):
    first, second = run_processes(train_quantized, 2, tmp_path, str(tmp_path))
    assert same(first, second) and int(first["codebooks.b8.num_updates"]) == 3
