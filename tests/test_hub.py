# SPDX-License-Identifier: Apache-2.0
"""A name is a folder, a bundled name or a Hub id; what the Hub is asked for is asked for with the options that were
given.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler
from huggingface_hub.errors import HfHubHTTPError

import hf_ganzip as gz
from hf_ganzip.core.hub import model_folder, unreachable
from hf_ganzip.evaluation.sources import open_source
from hf_ganzip.models.feature_network import FeatureNetwork
from hf_ganzip.saved.inspection import describe, format_description

from .conftest import run, tiny_generator, tiny_ugatit, tiny_unet
from .hub import TOKEN, LocalHub


OPENERS = (gz.load_model, describe, gz.GANPipeline.from_pretrained, gz.BigGANGenerator.from_pretrained)


@pytest.fixture
def saved(tmp_path):
    """A model, pipelines with one network, with two of which one is a denoiser, and with two others."""
    folder = tmp_path / "saved"
    tiny_generator().save_pretrained(folder / "model")
    gz.GANPipeline(tiny_generator()).save_pretrained(folder / "gan")
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(folder / "ddpm")
    DDPMPipeline(tiny_unet(), DDIMScheduler()).save_pretrained(folder / "two")
    tiny_unet().save_pretrained(folder / "two" / "second")
    index = folder / "two" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"second": ["diffusers", "UNet2DModel"]}))
    shutil.copytree(folder / "two", folder / "others")
    (folder / "others" / "unet").rename(folder / "others" / "first")
    entries = {"first": ["diffusers", "UNet2DModel"], "second": ["diffusers", "UNet2DModel"]}
    (folder / "others" / "model_index.json").write_text(json.dumps({"_class_name": "Own"} | entries))
    return folder


@pytest.fixture
def hub(saved, monkeypatch):
    with LocalHub({f"org/{name}": saved / name for name in ("model", "gan", "ddpm", "two", "others")}) as hub:
        hub.use(monkeypatch)
        yield hub


def test_options_reach_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    hub.repositories["org/model"].private = True
    where = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(ConnectionError, match="org/model: no such folder here, and not on the Hub, or no connection"):
        gz.load_model("org/model", **where)
    model = gz.load_model("org/model", token=TOKEN, **where)
    assert torch.equal(run(model), run(gz.load_model("org/model", token=TOKEN, local_files_only=True, **where)))
    with pytest.raises(ConnectionError, match="org/model"):
        gz.load_model("org/model", token=TOKEN, local_files_only=True, cache_dir=tmp_path / "empty")
    with pytest.raises(ConnectionError, match="org/model"):
        gz.load_model("org/model", token=TOKEN, revision="no-such-branch", **where)
    assert not (tmp_path / "empty" / "models--org--model" / "snapshots").exists()


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")  # diffusers gives it
def test_without_a_connection_one_attempt_decides(saved, hub, tmp_path, monkeypatch):
    """No retries; what is in the cache loads."""
    from huggingface_hub import constants

    expected = run(gz.load_model("org/model"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert unreachable() and torch.equal(run(gz.load_model("org/model")), expected)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: pytest.fail("a retry"))
    for call in (*OPENERS, gz.convert):
        with pytest.raises(OSError, match="org/typo"):
            call("org/typo")
    with pytest.raises(OSError, match="org/typo"):
        gz.load_model("org/typo", revision="0" * 40)


def test_a_slow_connection_is_one(hub, monkeypatch):
    assert unreachable() == ""

    class Slow:
        def head(self, *args, **kwargs):
            raise type("ReadTimeout", HfHubHTTPError.__bases__[:1], {})("slow")

    monkeypatch.setattr("hf_ganzip.core.hub.get_session", Slow)
    assert unreachable() == ""


def test_a_subfolder_is_all_that_is_downloaded(hub, tmp_path):
    folder = model_folder("org/two", subfolder="second", cache_dir=tmp_path / "cache")
    assert [path.name for path in folder.parent.iterdir()] == ["second"]
    model = gz.load_model("org/two", subfolder="second", cache_dir=tmp_path / "cache")
    assert type(model).__name__ == "UNet2DModel"
    fresh = gz.from_config("org/two", subfolder="second", cache_dir=tmp_path / "other")
    assert fresh.config.block_out_channels == model.config.block_out_channels
    assert not list((tmp_path / "other").rglob("*.safetensors"))
    gz.quantize_(model)
    assert model.config.quantization_config.record[-1]["base_model"].startswith("org/two@")
    with pytest.raises(FileNotFoundError, match="subfolder is 'third', but org/two has no such folder"):
        model_folder("org/two", subfolder="third", cache_dir=tmp_path / "cache")


def test_the_network_of_a_pipeline(saved, hub, tmp_path):
    for name, cls in (("gan", "StyleGAN2Generator"), ("ddpm", "UNet2DModel")):
        here, there = gz.load_model(saved / name), gz.load_model(f"org/{name}", cache_dir=tmp_path / "cache")
        assert all(tensor.data_ptr() % 64 == 0 for tensor in (*here.parameters(), *here.buffers()))
        assert type(here).__name__ == cls and torch.equal(run(here), run(there))
        assert type(open_source(saved / name).model).__name__ == cls
    assert Path(gz.load_model("org/two", cache_dir=tmp_path / "cache").config["_name_or_path"]).name == "unet"
    for name in (saved / "others", "org/others"):
        with pytest.raises(ValueError, match="is a pipeline with 2 networks .*second.* one is needed"):
            gz.load_model(name)
    assert type(gz.load_model(saved / "two", subfolder="second")).__name__ == "UNet2DModel"
    pipe = gz.GANPipeline.from_pretrained("org/gan", cache_dir=tmp_path / "pipelines", token=TOKEN)
    assert type(pipe.generator).__name__ == "StyleGAN2Generator"


def test_a_pipeline_opens_a_generator_alone(hub, tmp_path):
    """Here a part of a pipeline on the Hub, with options of both; tests/test_first_hour.py: from a folder, by name."""
    options = {
        "subfolder": "generator",
        "cache_dir": tmp_path / "cache",
        "token": TOKEN,
        "torch_dtype": torch.bfloat16,
    }
    pipe = gz.GANPipeline.from_pretrained("org/gan", class_names=["a", "b", "c"], **options)
    assert pipe.dtype == torch.bfloat16 and pipe.config.class_names == ["a", "b", "c"]
    tiny_ugatit().save_pretrained(tmp_path / "ugatit")
    assert gz.ImageTranslationPipeline.from_pretrained(tmp_path / "ugatit").generator.config.resolution == 16
    with pytest.raises(ValueError, match="UGATITGenerator draws no latents; .* use ImageTranslationPipeline"):
        gz.GANPipeline.from_pretrained(tmp_path / "ugatit")
    with pytest.raises(ValueError, match="StyleGAN2Generator makes images of latents; .* use GANPipeline"):
        gz.ImageTranslationPipeline.from_pretrained("stylegan2-fashion-mnist")


def test_describe_takes_pipelines_and_hub_ids(saved, hub, tmp_path):
    found = describe("org/ddpm", cache_dir=tmp_path / "cache")
    assert found["class_name"] == "DDPMPipeline" and found["parts"]["scheduler"] == "DDPMScheduler"
    assert found["parts"]["unet"]["class_name"] == "UNet2DModel" and found["parts"]["unet"]["tensors"] > 10
    text = format_description(describe(saved / "gan"))
    assert "GANPipeline in" in text and "generator: StyleGAN2Generator in" in text and "no packed layer" in text
    (saved / "gan" / "model_index.json").write_text("[")
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        describe(saved / "gan")


def test_bundled_names_and_mistyped_ones(tmp_path, monkeypatch):
    by_name, by_folder = (gz.load_model(each("stylegan2-fashion-mnist")) for each in (str, model_folder))
    assert torch.equal(run(by_name), run(by_folder))
    assert type(FeatureNetwork.from_pretrained("fashion-mnist-features")) is FeatureNetwork
    discriminator = gz.StyleGAN2Discriminator.from_pretrained("stylegan2-fashion-mnist-discriminator")
    assert type(discriminator) is gz.StyleGAN2Discriminator
    assert describe("biggan-fashion-mnist")["class_name"] == "BigGANGenerator"
    for call in (*OPENERS, gz.from_config):
        with pytest.raises(ValueError, match="'stylegan2-fashion-mnis'. Did you mean 'stylegan2-fashion-mnist'"):
            call("stylegan2-fashion-mnis")
    (tmp_path / "model.pkl").write_text("x")
    with pytest.raises(ValueError, match="model.pkl is a file; allowed are the folder"):
        gz.load_model(tmp_path / "model.pkl")
    with pytest.raises(FileNotFoundError, match="there is no folder /no/such/folder"):
        gz.load_model("/no/such/folder")
    monkeypatch.chdir(tmp_path)
    tiny_unet().save_pretrained(tmp_path / "stylegan2-fashion-mnist")  # a folder here comes first
    assert type(gz.load_model("stylegan2-fashion-mnist")).__name__ == "UNet2DModel"
