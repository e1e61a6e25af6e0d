# SPDX-License-Identifier: Apache-2.0
"""Runs of the GAN loop that stop, on one process and on two: whole checkpoints, no torsos, used folders left alone."""

import os
import signal

import pytest
import torch

from hf_ganzip.models import StyleGAN2Generator
from hf_ganzip.training.logs import read_log
from hf_ganzip.training.run import TrainingRun

from ..processes import run_processes
from .conftest import join_group, same, weights
from .loops import train_tiny_gan as train


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
        with pytest.raises(FileNotFoundError, match="use 'latest' or a checkpoint-STEP folder"):
            train(tmp_path, 5, resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
        assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if "other" not in str(p)) == before

    def test_torsos_are_ignored_and_what_came_after_an_older_checkpoint_goes(self, tmp_path):
        (tmp_path / "checkpoint.partial").mkdir()
        (tmp_path / "checkpoint.partial" / "model.safetensors").write_bytes(b"torso")
        options = {"checkpointing_steps": 2, "validation_steps": 2, "validate": lambda network: {"x": 1.0}}
        train(tmp_path, 8, resume_from_checkpoint="latest", **options)
        with open(tmp_path / "log.jsonl", "a") as log:
            log.write('{"step": 8, "los')  # killed while it wrote
        options |= {"resume_from_checkpoint": str(tmp_path / "checkpoint-4"), "checkpoints_total_limit": 2}
        train(tmp_path, 6, **options)
        assert [row["step"] for row in read_log(tmp_path / "figures.jsonl")] == [2, 4, 6]
        assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 6]
        assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-6"]
        assert StyleGAN2Generator.from_pretrained(tmp_path / "checkpoint-6" / "generator_ema").config.resolution == 8


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
