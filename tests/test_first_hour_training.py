# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer who trains: what they type, line by line, and what they get. Every line once failed."""

from pathlib import Path

import pytest


# --- training and fine-tuning


def run_example(name, *flags):
    """``python examples/NAME.py FLAGS`` in this process."""
    import runpy

    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / f"{name}.py"))
        script["main"](script["parse_args"]([str(flag) for flag in flags]))
    finally:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()


def test_a_short_run_does_not_save_its_start(tmp_path, monkeypatch, caplog):
    from safetensors.torch import load_file

    import hf_ganzip as gz

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def moved(*flags):
        """How far the saved weights are from those before training, of the way that the trained weights have gone."""
        folder = tmp_path / str(len(flags))
        run_example("finetune_stylegan2", "--smoke", "--output_dir", folder, *flags)
        start, saved = (gz.load_model(folder / name).state_dict() for name in ("start", "generator"))
        trained = load_file(folder / "checkpoint-4" / "model.safetensors")
        name = "synthesis.b16.conv1.weight"
        return float((saved[name] - start[name]).norm() / (trained[f"generator.{name}"] - start[name]).norm())

    assert moved() > 0.9 and not caplog.messages
    assert moved("--preset", "svs-stylegan2-base") < 0.01  # the paper's, for 15 million images
    assert "will be 100 % starting point after the 32 images" in caplog.text and "ema_rampup" in caplog.text
    assert {path.name for path in (tmp_path / "0" / "samples").iterdir()} >= {
        "step-0000004-average.png",
        "step-0000004-trained.png",
    }


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "all"])
def test_a_tracker_that_is_not_installed_is_refused_at_the_start(monkeypatch, capsys, tmp_path, name):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(SystemExit):
        run_example("train_stylegan2", "--smoke", "--output_dir", tmp_path / "out", "--report_to", name)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "installed; pip install" in said and ("wandb" if name == "wandb" else '"hf_ganzip[track]"') in said
    assert not (tmp_path / "out").exists()


EXAMPLES = sorted(path.stem for path in (Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_explains_every_flag_and_shows_its_default(name, monkeypatch):
    import argparse
    import runpy
    import sys

    found = []

    def parse_args(self, *_):
        found.append(self)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    folder = Path(__file__).parents[1] / "examples"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    with pytest.raises(SystemExit):
        runpy.run_path(str(folder / f"{name}.py"))["parse_args"]([])
    formatter = found[0]._get_formatter()
    texts = {action.dest: formatter._expand_help(action) if action.help else "" for action in found[0]._actions[1:]}
    required = {action.dest for action in found[0]._actions if action.required}
    assert len(texts) > 2 and all(texts.values()), texts
    assert not [dest for dest, text in texts.items() if "default: " not in text and dest not in required]


def test_a_pruned_model_finds_its_teacher_in_its_record(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import hf_ganzip as gz
    from hf_ganzip.scripts import finetuning

    monkeypatch.setattr(finetuning, "make_accelerator", lambda *_, **__: SimpleNamespace())

    def teacher(name):
        args = SimpleNamespace(output_dir=str(tmp_path / "out"), smoke=False, teacher=None, recipe=None, revision=None)
        args.pretrained_model_name_or_path = str(name)
        run = finetuning.Finetuning(args, "x", None)
        return run.teacher(gz.load_model(name))

    model = gz.load_model("stylegan2-fashion-mnist")
    full = model.num_parameters()
    with pytest.raises(
        ValueError, match="does not learn from itself, and .* is not pruned: give --recipe or --teacher"
    ):
        model.save_pretrained(tmp_path / "full")
        teacher(tmp_path / "full")
    pruning = gz.PruneConfig("magnitude", 0.5, criterion_options={"samples": 4})
    gz.prune_(model, pruning)
    model.save_pretrained(tmp_path / "pruned")
    assert teacher(tmp_path / "pruned").num_parameters() == full  # the bundled one
    model = gz.load_model(tmp_path / "full")
    gz.prune_(model, pruning)
    model.save_pretrained(tmp_path / "pruned-2")
    assert teacher(tmp_path / "pruned-2").num_parameters() == full  # the folder beside it
    (tmp_path / "full").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="was pruned from 'full', which is no other folder .* give --teacher"):
        teacher(tmp_path / "pruned-2")


def test_a_missing_lpips_falls_back_with_a_message(monkeypatch, capsys):
    import runpy
    import sys
    from types import SimpleNamespace

    import hf_ganzip as gz

    monkeypatch.setitem(sys.modules, "lpips", None)
    script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "finetune_stylegan2.py"))
    run = SimpleNamespace(accelerator=SimpleNamespace(print=print, device="cpu"))
    for channels, found in ((1, "features"), (3, "none")):
        args = script["parse_args"](["--output_dir", "x", "--smoke"])
        generator = gz.StyleGAN2Generator(resolution=32, z_dim=4, w_dim=4, channels=(4,) * 4, image_channels=channels)
        distance = script["perceptual_distance"](args, run, generator)
        assert (args.perceptual, distance is None) == (found, found == "none")
        assert (args.perceptual_weight == 0) == (found == "none")
        said = capsys.readouterr().out
        assert "pip install 'hf_ganzip[perceptual]'" in said and f"Going on with --perceptual {found}" in said


def test_a_token_for_the_hub_is_used_and_told_to_no_tracker(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from hf_ganzip.scripts import finetuning, shared

    told, pushed = [], []
    accelerator = SimpleNamespace(init_trackers=lambda name, options: told.append(options))
    monkeypatch.setattr(shared, "Accelerator", lambda **_: accelerator)
    monkeypatch.setattr(finetuning, "push_to_hub", lambda *_, **options: pushed.append(options["token"]))
    args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None, report_to="x", seed=0)
    args.hub_token, args.hub_model_id, args.dataset_name = "secret", "me/model", None
    finetuning.Finetuning(args, "x", None).publish(None)
    assert pushed == ["secret"] and told[0]["seed"] == 0 and "secret" not in str(told)


def test_training_images_that_are_not_here_are_no_matter_of_the_hub(tmp_path):
    flags = ("--train_data_dir", tmp_path / "nothere", "--output_dir", tmp_path / "run", "--max_train_steps", 1)
    with pytest.raises(FileNotFoundError, match="--train_data_dir is .*nothere; there is no such folder"):
        run_example("train_ddpm", *flags)
