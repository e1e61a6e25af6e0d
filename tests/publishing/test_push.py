# SPDX-License-Identifier: Apache-2.0
"""Models reach a Hub whole and equal, or not at all."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, VQModel
from huggingface_hub import ModelCard, snapshot_download

import hf_ganzip as gz
from hf_ganzip.publishing import check

from ..conftest import run, tiny_generator, tiny_unet
from ..test_transformers import encode, text_encoder
from .conftest import commits, pruned_unet, push, quantized


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx


def in_dtype(dtype, folder):
    tiny_generator().save_pretrained(folder / "full")
    return gz.StyleGAN2Generator.from_pretrained(folder / "full", torch_dtype=dtype)


class TestWhole:
    @pytest.mark.process
    def test_a_packed_generator_there_and_back(self, hub, tmp_path, monkeypatch):
        model = tiny_generator()
        report = gz.quantize_(model, bits=4)
        before, executed, run_snippet = run(model), [], check.run_snippet
        monkeypatch.setattr(
            "hf_ganzip.publishing.push.run_snippet", lambda text: executed.append(text) or run_snippet(text)
        )
        found = gz.push_to_hub(model, "me/small", report=report, license="apache-2.0", samples=4)
        assert found.url.startswith(f"{hub.url}/me/small/commit/") and commits(hub) == 1
        repository = hub.repositories["me/small"]
        assert repository.private and set(repository.files) == set(found.files)
        others = {"README.md", "config.json", "hf_ganzip_code.py", "samples.png"}
        assert set(found.files) == {"diffusion_pytorch_model.safetensors", *others}
        text = found.card
        places = [text.index(each) for each in ("](samples.png)", "pip install hf_ganzip", "import hf_ganzip as gz")]
        assert places == sorted(places)
        assert "`hf_ganzip_code.py`: a few lines that import hf_ganzip" in text and "trust_remote_code=True" in text
        assert "| weights on disk |" in text and "The weights are under apache-2.0." in text
        assert torch.equal(run(model), before) and set(found.compared["model"]) == {"tensors", "output"}
        (snippet,) = executed
        assert snippet.replace(snippet.split('from_pretrained("')[1].split('"')[0], "me/small") in text
        code = (
            "import hf_ganzip as gz, torch, diffusers\n"
            "from tests.conftest import run\n"
            f"torch.save(run(gz.StyleGAN2Generator.from_pretrained('me/small')), {str(tmp_path / 'out.pt')!r})"
        )
        hub.run(code, tmp_path / "cache")
        assert torch.equal(torch.load(tmp_path / "out.pt"), before)

    @pytest.mark.process
    def test_a_pipeline(self, hub, tmp_path):
        unet = pruned_unet()
        found = push(DDPMPipeline(unet, DDPMScheduler()), "me/pipeline")
        assert set(found.compared) == {"unet"} and "unet/config.json" in found.files
        assert "DDPMPipeline.from_pretrained" in found.card and "pruned" in found.card
        folder = snapshot_download("me/pipeline", cache_dir=tmp_path / "cache")
        assert torch.equal(run(DDPMPipeline.from_pretrained(folder).unet), run(unet))

    def test_what_is_measured_and_a_dry_run_sends_nothing(self, hub, equal):
        model, full = quantized(), tiny_generator()
        found = push(model, dry_run=True, measure=False)
        assert "# small" in found.card and "Size and speed" not in found.card and "torch_dtype" not in found.card
        text = push(model, reference=full, dry_run=True, standalone=True).card
        assert "full model | this model" in text and "time of one pass" in text
        assert "(Apache-2.0): all that the model needs but torch and diffusers" in text
        assert hub.requests == [] and found.url == "" and "nothing was uploaded" in str(found)

    def test_the_repository_holds_the_last_model_and_no_other(self, hub, equal, tmp_path):
        sharded, other = quantized(), tiny_generator(image_channels=1)
        files = push(sharded, max_shard_size="2KB").files
        assert sum(name.endswith(".safetensors") for name in files) > 2
        assert "diffusion_pytorch_model.safetensors.index.json" in files
        assert torch.equal(run(gz.load_model("me/small")), run(sharded))
        hub.repositories["me/small"].files["notes.txt"] = b"of the owner"
        files = push(other).files
        assert commits(hub) == 2 and set(hub.repositories["me/small"].files) == {*files, "notes.txt"}
        assert torch.equal(run(gz.load_model("me/small")), run(other))

    def test_shards_of_a_pipeline_are_replaced(self, hub, equal):
        unet = tiny_unet()
        push(DDPMPipeline(unet, DDPMScheduler()), max_shard_size="20KB")
        assert "unet/diffusion_pytorch_model.safetensors.index.json" in hub.repositories["me/small"].files
        found = push(DDPMPipeline(unet, DDPMScheduler()))
        assert set(hub.repositories["me/small"].files) == set(found.files)
        push(unet)  # a model alone after a pipeline
        assert "model_index.json" not in hub.repositories["me/small"].files
        assert torch.equal(run(gz.load_model("me/small")), run(unet))

    def test_no_path_of_this_machine_leaves_it(self, hub, equal, tmp_path):
        tiny_generator().save_pretrained(tmp_path / "private-folder")
        model = gz.StyleGAN2Generator.from_pretrained(tmp_path / "private-folder")
        gz.quantize_(model, bits=4)
        push(model)
        everything = b"".join(hub.repositories["me/small"].files.values())
        assert str(tmp_path).encode() not in everything
        assert json.loads(hub.repositories["me/small"].files["config.json"])["_name_or_path"] == "private-folder"

    @pytest.mark.process
    def test_models_push_to_hub_keeps_the_card(self, hub, tmp_path):
        code = (
            "import hf_ganzip as gz, diffusers\n"
            "from tests.conftest import tiny_generator\n"
            "model = tiny_generator()\n"
            "gz.quantize_(model, bits=4)\n"
            "print(gz.push_to_hub(model, 'me/small', samples=0).card)\n"
            "model.push_to_hub('me/small')"
        )
        ours = ModelCard(hub.run(code, tmp_path / "cache").strip())
        assert commits(hub) == 2
        kept = ModelCard(hub.repositories["me/small"].files["README.md"].decode())
        assert kept.text.strip() == ours.text.strip() and set(ours.data.tags) <= set(kept.data.tags)
        assert kept.data.library_name == "hf_ganzip"


@pytest.mark.process
class TestDtypes:
    """What is published is in the dtype that the model has: loaded so in a fresh process, and compared."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half(self, hub, tmp_path, dtype):
        text = push(in_dtype(dtype, tmp_path), dry_run=True).card
        assert f'from_pretrained("me/small", torch_dtype={dtype})' in text and "import torch\n" in text
        assert f"in {str(dtype)[6:]}." in text

    def test_half_of_other_kinds(self, hub, tmp_path):
        packed, pipeline = (
            quantized(in_dtype(torch.float16, tmp_path)),
            DDPMPipeline(tiny_unet().half(), DDPMScheduler()),
        )
        for model in (packed, pipeline):
            assert "torch_dtype=torch.float16)" in push(model, dry_run=True).card
        push(text_encoder().half(), dry_run=True)  # transformers takes the dtype of the file

    def test_modules_that_are_always_loaded_in_float32(self, hub):
        with pytest.raises(ValueError, match="keeps mapping of a StyleGAN2Generator in float32: load it with"):
            push(tiny_generator().half(), dry_run=True)

    def test_parts_of_a_pipeline_in_two_dtypes(self, hub):
        unet = tiny_unet(in_channels=2, out_channels=2).half()
        vqvae = VQModel(block_out_channels=(8,), latent_channels=2, num_vq_embeddings=4, norm_num_groups=4)
        found = push(LDMPipeline(vqvae, unet, DDIMScheduler()), dry_run=True)
        assert set(found.compared) == {"unet", "vqvae"}
        option = 'torch_dtype={"unet": torch.float16, "default": torch.float32}'
        assert f'LDMPipeline.from_pretrained("me/small", {option})' in found.card


def test_every_row_of_the_picture_says_whose_it_is(hub, equal, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "hf_ganzip.images.grids.save_image_grid", lambda images, path, **options: drawn.update(options, images=images)
    )
    push(quantized(), reference=tiny_generator(), samples=12, dry_run=True)
    assert drawn["row_labels"] == ("full",) * 2 + ("this model",) * 2
    assert drawn["columns"] == 10 and len(drawn["images"]) == 40  # whole rows


def test_the_licence_of_a_base_on_the_hub(hub, equal, tmp_path):
    push(tiny_generator(), "me/full", license="cc-by-4.0")
    patterns = ["*.json", "*.safetensors"]  # without the card
    folder = snapshot_download("me/full", cache_dir=tmp_path / "cache", allow_patterns=patterns)
    model = quantized(gz.StyleGAN2Generator.from_pretrained(folder))
    found = ModelCard(push(model).card)
    assert found.data.license == "cc-by-4.0" and found.data.base_model == "me/full"
    assert "The licence is that of me/full." in found.text
    hub.faults["GET /api/models/me/full"] = [500] * 9
    assert ModelCard(push(model).card).data.license == "other"


@pytest.mark.process
def test_a_text_encoder(hub, tmp_path):
    model = quantized(text_encoder())
    found = push(model)
    assert "from transformers import CLIPTextModel" in found.card
    assert {"transformers", "CLIPTextModel"} <= set(ModelCard(found.card).data.tags)
    folder = snapshot_download("me/small", cache_dir=tmp_path / "cache")
    assert torch.equal(encode(type(model).from_pretrained(folder)), encode(model))
