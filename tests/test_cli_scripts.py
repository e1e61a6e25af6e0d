# SPDX-License-Identifier: Apache-2.0
"""The doors to scripts and recipes, which a wheel has, too."""

import json

import pytest
import yaml

from hf_ganzip.core.shipped import recipes, scripts, shipped
from hf_ganzip.recipes import read_recipe

from .docs.pages import ROOT


def test_all_scripts_have_a_door_or_are_listed(done):
    assert shipped("examples") == ROOT / "examples"
    found = json.loads(done("examples", "--json"))
    assert set(found["scripts"]) == {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert set(found["recipes"]) == {"small-and-quantized", "diff-prune-ddpm", "svs-ddpm", "svs-stylegan2"}
    assert all(found["scripts"].values()) and all(found["recipes"].values())


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_without_a_name_the_names_are_listed(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for arguments, expected in (((), 2), (("--help",), 0)):
        code, out, _ = call(command, *arguments)
        assert code == expected and ", ".join(scripts(f"{command}_")) in " ".join(out.split())
    code, _, err = call(command, "stylegan")
    assert code == 1 and "Did you mean 'stylegan" in err


def test_errors_are_those_of_the_script(call):
    code, _, err = call("finetune", "ddpm", "--no-such-flag", "3")
    assert code == 2 and "finetune_ddpm.py: error" in err


def test_launch_goes_through_accelerate(call, monkeypatch):
    from hf_ganzip.cli import scripts as doors

    commands, ended = [], doors.subprocess.CompletedProcess((), 3)
    monkeypatch.setattr(doors.subprocess, "run", lambda command: commands.append(command) or ended)
    launch, rest = ("--launch", "--num_processes 2"), ("--smoke", "--output_dir", "out")
    for arguments in ((*launch, "stylegan2"), ("stylegan2", *launch)):
        assert call("train", *arguments, *rest)[0] == 3
        script = str(ROOT / "examples" / "train_stylegan2.py")
        assert commands.pop()[2:] == ["accelerate.commands.launch", "--num_processes", "2", script, *rest]


@pytest.mark.process
def test_a_run_on_two_processes(tmp_path, done):
    launch = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    done("train", "biggan", "--launch", launch, "--smoke", "--output_dir", tmp_path / "out")
    assert (tmp_path / "out" / "generator" / "config.json").is_file()


def test_examples_are_copied(call, tmp_path):
    code, out, _ = call("examples", tmp_path / "mine")
    assert code == 0 and "copied to" in out
    assert all((tmp_path / "mine" / name).is_file() for name in ("study_svs.py", "recipes/diff-prune-ddpm.yaml"))
    assert call("examples", tmp_path / "mine")[0] == 1


def test_recipes_by_name(call, tmp_path, monkeypatch):
    for name, file in recipes().items():
        assert read_recipe(name) == yaml.safe_load(file.read_text())["steps"]
    kinds = {name: [step["step"] for step in read_recipe(name)] for name in recipes()}
    assert kinds["svs-stylegan2"] == ["prune", "refine"]
    assert kinds["diff-prune-ddpm"] == ["prune"]  # docs/studies/svs.md: scaling does not help diffusion models
    code, _, err = call("compress", "biggan-fashion-mnist", tmp_path / "x", "--recipe", "svs-stylegan")
    assert code == 1 and err.startswith("hf-ganzip: --recipe: Unknown recipe")
    assert "Did you mean 'svs-stylegan2'?" in err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diff-prune-ddpm").write_text("- {step: quantize}")  # a file here comes first
    assert read_recipe("diff-prune-ddpm") == [{"step": "quantize"}]
