# SPDX-License-Identifier: Apache-2.0
"""The commands that publish, by real HTTP."""

import json

import pytest
import torch
from huggingface_hub import ModelCard

import hf_ganzip as gz
from hf_ganzip.core.shipped import metric_folders

from ..conftest import run, tiny_generator
from ..hub import CUT


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")
METRICS = sorted(metric_folders())
WEIGHTS = "diffusion_pytorch_model.safetensors"


class TestPush:
    def test_there_and_back(self, done, hub, equal, folder, packed, tmp_path):
        report = gz.quantize_(tiny_generator(), bits=4)
        (tmp_path / "quantize.json").write_text(json.dumps(report.to_dict()))
        flags = ("--report", tmp_path / "quantize.json", "--license", "mit", "--base", folder, "--json")
        found = json.loads(done("push", packed, "me/small", "--samples", "4", "--public", *flags))
        repository = hub.repositories["me/small"]
        assert not repository.private and found["url"].startswith(f"{hub.url}/me/small/commit/")
        assert set(repository.files) == set(found["files"]) == {"README.md", "config.json", *found["files"]}
        assert repository.files["README.md"].decode() == found["card"]
        assert ModelCard(found["card"]).data.license == "mit" and "samples.png" in repository.files
        assert torch.equal(run(gz.load_model("me/small", cache_dir=tmp_path)), run(gz.load_model(packed)))

    def test_a_model_on_the_hub_has_a_card_and_goes_to_another_place(self, done, hub, equal, packed):
        done("push", packed, "me/small", "--samples", "0", "--license", "mit", "--no-measure")
        first = hub.repositories["me/small"].files
        assert done("card", "me/small", "me/small", "--no-check") == first["README.md"].decode()
        out = done("push", "me/small", "me/again", "--samples", "0")
        assert "reloaded in a fresh process bit for bit" in out and f"{hub.url}/me/again" in out
        second = hub.repositories["me/again"]
        assert first[WEIGHTS] == second.files[WEIGHTS] and second.private
        assert ModelCard(second.files["README.md"].decode()).data.license == "mit"  # of the README.md that was there

    @pytest.mark.parametrize("flags, branch", [(("--revision", "4-bit"), "4-bit"), (("--create-pr",), "refs/pr/1")])
    def test_branch_or_pull_request(self, done, hub, equal, packed, flags, branch):
        out = done("push", packed, "me/small", "--samples", "0", *flags)
        repository = hub.repositories["me/small"]
        assert repository.files == {} and WEIGHTS in repository.commits[repository.branches[branch]]
        assert (f"{hub.url}/me/small/discussions/1" in out) == (branch == "refs/pr/1")

    def test_a_fault_is_one_line(self, call, hub, equal, packed):
        hub.faults["POST /api/repos/create"] = [403]
        code, out, err = call("push", packed, "me/small", "--samples", "0")
        assert code == 1 and out == "" and "no write permission" in err and err.count("\n") == 1
        assert call("push", packed, "me/small", "--samples", "0")[0] == 0


class TestCard:
    def test_the_snippet_is_executed_unless_that_is_declined(self, done, packed, monkeypatch):
        snippets = []
        monkeypatch.setattr("hf_ganzip.publishing.check.run_snippet", snippets.append)
        checked = done("card", packed, "me/small")
        assert len(snippets) == 1 and str(packed) in snippets[0]
        assert done("card", packed, "me/small", "--no-check") == checked and len(snippets) == 1

    @pytest.mark.process
    def test_a_folder_that_does_not_load_gets_no_card(self, call, packed, tmp_path):
        config = json.loads((packed / "config.json").read_text())
        (packed / "config.json").write_text(json.dumps(config | {"w_dim": 12}))
        code, _, err = call("card", packed, "me/small", "--output", tmp_path / "card.md")
        assert code == 1 and "the loading snippet failed" in err and not (tmp_path / "card.md").exists()


LOAD_ALL = f"""
import evaluate, json
import numpy as np
random = np.random.default_rng(0)
sides = {{"references": random.normal(size=(60, 4)), "predictions": random.normal(size=(60, 4))}}
print(json.dumps({{name: evaluate.load("me/" + name).compute(**sides) for name in {METRICS}}}))
"""


class TestMetrics:
    @pytest.mark.process
    def test_all_are_pushed_and_load_in_one_process_and_then_offline(self, done, hub, tmp_path):
        pytest.importorskip("evaluate")
        assert sorted(json.loads(done("metrics", "push", "me", "--json"))) == [f"me/{name}" for name in METRICS]
        first = json.loads(hub.run(LOAD_ALL, tmp_path / "cache").splitlines()[-1])
        assert sorted(first) == METRICS and all(first.values())
        hub.faults[".*"] = [500] * 100
        offline = "import os; os.environ |= {'HF_EVALUATE_OFFLINE': '1', 'HF_HUB_OFFLINE': '1'}\n"
        sent = len(hub.requests)
        assert json.loads(hub.run(offline + LOAD_ALL, tmp_path / "cache").splitlines()[-1]) == first
        assert len(hub.requests) == sent

    def test_one_as_a_pull_request(self, done, hub, small_wheel):
        out = done("metrics", "push", "me", "--metric", "density_coverage", "--create-pr", "--private")
        repository = hub.repositories["spaces/me/density_coverage"]
        assert "discussions/1" in out and list(hub.repositories) == ["spaces/me/density_coverage"]
        assert repository.private and repository.files == {}
        readme = repository.commits[repository.branches["refs/pr/1"]]["README.md"].decode()
        assert 'evaluate.load("me/density_coverage")' in readme and "metrics_hub/density_coverage" not in readme

    def test_a_dry_run_names_the_files(self, done, hub, small_wheel):
        assert done("metrics", "push", "me", "--dry-run").count("requirements.txt") == len(METRICS)
        assert hub.requests == []

    def test_the_demo_is_a_space_with_a_title_and_a_source(self, call, done, hub, small_wheel):
        options = ("--space", "gradio", "--public", "--title", "Smaller", "--repository", "https://example.org/r")
        out = done("push", "compress", "me/demo", *options)
        repository = hub.repositories["spaces/me/demo"]
        assert not repository.private and "comparison.py" in repository.files
        readme = repository.files["README.md"].decode()
        assert "title: Smaller" in readme and "<https://example.org/r>" in readme and "start.py" in out
        code, _, err = call("push", "stylegan2-fashion-mnist", "me/model", "--repository", "https://example.org/r")
        assert code == 1 and "leave out --repository" in err

    def test_a_fault_names_the_space_and_the_next_try_succeeds(self, call, done, hub, small_wheel):
        hub.faults["POST /api/spaces/me/frechet_distance/commit"] = [CUT]
        code, _, err = call("metrics", "push", "me")
        assert code == 1 and "me/frechet_distance: " in err.splitlines()[-1] and "is not known: look at the" in err
        assert all(len(each.commits) <= 2 for each in hub.repositories.values())
        done("metrics", "push", "me")
        complete = {name for name, each in hub.repositories.items() if "app.py" in each.files}
        assert complete == {f"spaces/me/{name}" for name in METRICS}
