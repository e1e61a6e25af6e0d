# SPDX-License-Identifier: Apache-2.0
"""Models reach a Hub whole and equal, or not at all."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard, snapshot_download

import hf_ganzip as gz
from hf_ganzip.publishing import check

from ..conftest import TINY_UNET, run, tiny_generator
from ..hub import CUT, LocalHub


pytestmark = pytest.mark.filterwarnings(
    "default:Use 'content=:DeprecationWarning"
)  # huggingface_hub's own call of httpx


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LocalHub() as found:
        found.use(monkeypatch)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield found


def small(bits=4):
    model = tiny_generator()
    report = gz.quantize_(model, gz.QuantizeConfig(bits=bits))
    return model, report


def push(model, name="me/small", **options):
    return gz.push_to_hub(model, name, **{"samples": 0} | options)


@pytest.fixture
def equal(monkeypatch):
    """Skip the fresh process: other tests have it."""
    monkeypatch.setattr("hf_ganzip.publishing.push.run_snippet", lambda snippet: FINGERPRINTS[-1])
    original = check.fingerprint

    def remember(model):
        FINGERPRINTS.append(original(model))
        return FINGERPRINTS[-1]

    monkeypatch.setattr("hf_ganzip.publishing.push.fingerprint", remember)


FINGERPRINTS = []


def commits(hub, name="me/small"):
    return len(hub.repositories[name].commits) - 1 if name in hub.repositories else 0


class TestWhole:
    def test_a_packed_generator_there_and_back(self, hub, tmp_path):
        model, report = small()
        before = run(model)
        found = gz.push_to_hub(model, "me/small", report=report, license="apache-2.0", samples=4)
        assert found.url.startswith(f"{hub.url}/me/small/commit/") and commits(hub) == 1
        repository = hub.repositories["me/small"]
        assert repository.private and set(repository.files) == set(found.files)
        assert set(found.files) == {
            "README.md",
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "samples.png",
        }
        assert torch.equal(run(model), before) and set(found.compared["model"]) == {"tensors", "output"}
        code = (
            "import hf_ganzip as gz, torch, diffusers\n"
            "from tests.conftest import run\n"
            f"torch.save(run(gz.StyleGAN2Generator.from_pretrained('me/small')), {str(tmp_path / 'out.pt')!r})"
        )
        hub.run(code, tmp_path / "cache")
        assert torch.equal(torch.load(tmp_path / "out.pt"), before)

    def test_the_snippet_of_the_card_is_what_was_executed(self, hub, monkeypatch):
        executed = []
        original = check.run_snippet
        monkeypatch.setattr(
            "hf_ganzip.publishing.push.run_snippet", lambda text: executed.append(text) or original(text)
        )
        found = push(small()[0])
        (text,) = executed
        place = text.split('from_pretrained("')[1].split('"')[0]
        assert text.replace(place, "me/small") in found.card

    def test_a_pipeline(self, hub, tmp_path):
        unet = UNet2DModel(**TINY_UNET).eval()
        gz.prune_(unet, gz.PruneConfig("random", 0.5))
        gz.quantize_(unet, gz.QuantizeConfig(bits=4))
        found = push(DDPMPipeline(unet, DDPMScheduler()), "me/pipeline")
        assert set(found.compared) == {"unet"} and "unet/config.json" in found.files
        assert "DDPMPipeline.from_pretrained" in found.card and "pruned" in found.card
        folder = snapshot_download("me/pipeline", cache_dir=tmp_path / "cache")
        assert torch.equal(run(DDPMPipeline.from_pretrained(folder).unet), run(unet))

    def test_shards(self, hub, equal):
        found = push(small()[0], max_shard_size="2KB")
        assert sum(name.endswith(".safetensors") for name in found.files) > 2
        assert "diffusion_pytorch_model.safetensors.index.json" in found.files

    def test_no_path_of_this_machine_leaves_it(self, hub, equal, tmp_path):
        tiny_generator().save_pretrained(tmp_path / "private-folder")
        model = gz.StyleGAN2Generator.from_pretrained(tmp_path / "private-folder")
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        push(model)
        everything = b"".join(hub.repositories["me/small"].files.values())
        assert str(tmp_path).encode() not in everything
        assert json.loads(hub.repositories["me/small"].files["config.json"])["_name_or_path"] == "private-folder"

    def test_models_push_to_hub_keeps_the_card(self, hub, tmp_path):
        code = (
            "import hf_ganzip as gz, diffusers\n"
            "from tests.conftest import tiny_generator\n"
            "model = tiny_generator()\n"
            "gz.quantize_(model, gz.QuantizeConfig(bits=4))\n"
            "print(gz.push_to_hub(model, 'me/small', samples=0).card)\n"
            "model.push_to_hub('me/small')"
        )
        ours = ModelCard(hub.run(code, tmp_path / "cache").strip())
        assert commits(hub) == 2
        kept = ModelCard(hub.repositories["me/small"].files["README.md"].decode())
        assert kept.text.strip() == ours.text.strip() and set(ours.data.tags) <= set(kept.data.tags)
        assert kept.data.library_name == "hf_ganzip"


class TestWhereItGoes:
    def test_dry_run_sends_nothing(self, hub, equal):
        found = push(small()[0], dry_run=True)
        assert hub.requests == [] and found.url == "" and "# small" in found.card
        assert "nothing was uploaded" in str(found)

    def test_branch(self, hub, equal):
        push(small()[0])
        push(small(3)[0], revision="three-bits")
        repository = hub.repositories["me/small"]
        assert repository.branches["main"] != repository.branches["three-bits"]
        assert "3-bit" in repository.commits[repository.branches["three-bits"]]["README.md"].decode()

    def test_pull_request(self, hub, equal):
        push(small()[0])
        found = push(small(3)[0], create_pr=True)
        assert found.url == f"{hub.url}/me/small/discussions/1"
        assert "4-bit" in hub.repositories["me/small"].files["README.md"].decode()

    def test_public(self, hub, equal):
        push(small()[0], private=False)
        assert not hub.repositories["me/small"].private


class TestNothingHalf:
    def test_a_model_that_loads_with_other_bits_stays_here(self, hub, monkeypatch):
        original = check.run_snippet

        def damaged(snippet):
            found = original(snippet)
            found["model"]["output"] = "0" * 64
            return found

        monkeypatch.setattr("hf_ganzip.publishing.push.run_snippet", damaged)
        with pytest.raises(ValueError, match="other bits: output of model. Nothing was uploaded"):
            push(small()[0])
        assert hub.requests == []

    def test_a_weight_that_is_not_saved_is_found(self, hub):
        model, _ = small()
        model.synthesis.b8.conv0.register_buffer("forgotten", torch.ones(2))  # the class has no such buffer
        with pytest.raises((ValueError, RuntimeError)):
            push(model)
        assert hub.requests == []

    @pytest.mark.parametrize(
        "fault, statuses, message",
        [
            ("POST /api/repos/create", [401], "log in"),
            ("POST /api/repos/create", [403], "no write permission"),
            ("POST /api/models/me/small/preupload", [404], "no such repository"),
            ("POST /api/models/me/small/commit", [409], "somebody else"),
            ("POST /api/models/me/small/commit", [412], "has moved"),
            ("POST /api/models/me/small/commit", [500], "no commit was made"),
            ("POST /api/models/me/small/commit", [CUT], "no commit was made"),
        ],
        ids=["401", "403", "404", "409", "412", "500", "cut"],
    )
    def test_faults_leave_no_commit_and_the_next_try_succeeds(self, hub, equal, fault, statuses, message):
        hub.faults[fault] = list(statuses)
        model, _ = small()
        with pytest.raises(ConnectionError, match=message):
            push(model)
        assert commits(hub) == 0
        sent = sum(request.startswith("PUT /lfs/") for request in hub.requests)
        push(model)
        assert commits(hub) == 1
        again = sum(request.startswith("PUT /lfs/") for request in hub.requests) - sent
        assert (sent, again) in ((1, 0), (0, 1)), hub.requests  # what has arrived is not sent twice

    def test_a_cut_in_the_middle_of_the_files(self, hub, equal):
        hub.faults["PUT /lfs/"] = [CUT]  # the client tries the file again by itself
        push(small()[0])
        assert commits(hub) == 1

    def test_no_hub_at_all(self, hub, equal, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ConnectionError, match="me/small"):
            push(small()[0])

    @pytest.mark.parametrize("name", ["small", "a/b/c", "/small", "me/"])
    def test_bad_names(self, hub, name):
        with pytest.raises(ValueError, match="namespace/name"):
            push(small()[0], name)

    def test_no_model(self, hub):
        with pytest.raises(TypeError, match="a dict is no model"):
            push({})
