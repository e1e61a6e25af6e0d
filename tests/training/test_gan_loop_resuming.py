# SPDX-License-Identifier: Apache-2.0
"""A run of the GAN loop that stops goes on exactly, and leaves no torsos; on one process and on two."""

import os
import signal

import pytest
import torch

from hf_ganzip.models import StyleGAN2Generator
from hf_ganzip.training.feature_quantization import FQConfig
from hf_ganzip.training.logs import read_log
from hf_ganzip.training.run import TrainingRun

from ..processes import run_processes
from .conftest import join_group, same, weights
from .loops import train_tiny_gan as train


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
    train(tmp_path, 6, checkpointing_steps=2, resume_from_checkpoint="latest", checkpoints_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-6"]
    restored = StyleGAN2Generator.from_pretrained(tmp_path / "checkpoint-6" / "generator_ema")
    assert restored.config.resolution == 8


def test_resuming_from_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="use 'latest' or a checkpoint-STEP folder"):
        train(tmp_path, 2, resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def train_in_a_group(rank, count, folder):
    """Weights of a whole run, of one that stopped and went on, and of a discriminator with codebooks."""
    join_group(rank, count)
    whole = train(f"{folder}/whole", 4, train_batch_size=4)
    train(f"{folder}/parts", 2, train_batch_size=4, checkpointing_steps=2)
    parts = train(f"{folder}/parts", 4, train_batch_size=4, resume_from_checkpoint="latest")
    fq = FQConfig(4, preset="official", accumulate="step")
    quantized = train(f"{folder}/quantized", 3, train_batch_size=4, fq=fq)[1]
    return weights((*whole, *parts, quantized))


@pytest.mark.process
def test_two_processes_stay_equal_and_resume_exactly(tmp_path):
    first, second = run_processes(train_in_a_group, 2, tmp_path, str(tmp_path))
    assert all(torch.equal(x, first[f"{int(name[0]) + 3}{name[1:]}"]) for name, x in first.items() if name[0] in "012")
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert all(name.endswith("w_avg") for name in different)  # each process averages the styles of its own samples
    assert int(first["6.codebooks.b8.num_updates"]) == 3
    assert (tmp_path / "whole" / "checkpoint-4" / "random_states_1.pkl").is_file()
