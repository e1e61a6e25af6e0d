# SPDX-License-Identifier: Apache-2.0
"""Fresh processes open repositories with ``trust_remote_code=True``, with hf_ganzip and where it cannot be imported."""

import json
import os

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

import hf_ganzip as gz

from ..conftest import run, tiny_generator, tiny_stylegan3
from .conftest import GENERATORS, in_fresh_process, pruned_unet, quantized


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx


@pytest.mark.process
class TestOpened:
    @pytest.mark.parametrize("standalone", [False, True], ids=["thin", "standalone"])
    @pytest.mark.parametrize("build", GENERATORS)
    def test_generators_and_their_pipelines(self, tmp_path, build, standalone):
        model = quantized(build())
        gz.save_for_hub(gz.GANPipeline(model), tmp_path / "pipe", standalone=standalone)
        z = torch.randn(3, model.config.z_dim)
        labels = torch.tensor([0, 2, 1]) if model.config.num_classes else None
        torch.save((z, labels), tmp_path / "inputs.pt")
        in_fresh_process(
            """
            import torch
            from diffusers import AutoModel, DiffusionPipeline
            z, labels = torch.load("inputs.pt")
            pipe = DiffusionPipeline.from_pretrained("pipe", trust_remote_code=True)
            alone = AutoModel.from_pretrained("pipe", subfolder="generator", trust_remote_code=True)
            images = pipe(latents=z, class_labels=labels, noise_mode="const", output_type="pt").images
            with torch.no_grad():
                torch.save((images, alone(z, labels, noise_mode="const").sample), "outputs.pt")
            alone.save_pretrained("again")
            """,
            tmp_path,
            without_us=standalone,
        )
        images, sample = torch.load(tmp_path / "outputs.pt")
        with torch.no_grad():
            assert torch.equal(sample, model(z, labels, noise_mode="const").sample)
        expected = gz.GANPipeline(model)(latents=z, class_labels=labels, noise_mode="const", output_type="pt").images
        assert torch.equal(images, expected)
        again, weights = tmp_path / "again", "diffusion_pytorch_model.safetensors"
        assert (again / weights).read_bytes() == (tmp_path / "pipe/generator" / weights).read_bytes()
        assert torch.equal(run(gz.load_model(again)), run(model))  # saved by the standalone file, read by the package

    def test_through_a_hub_then_offline(self, hub, equal, tmp_path):
        unet, generator = pruned_unet(), quantized(tiny_generator(num_classes=0))
        gz.push_to_hub(DDPMPipeline(unet, DDPMScheduler()), "me/ddpm", samples=0, standalone=True)
        gz.push_to_hub(generator, "me/small", samples=0, standalone=True)
        gz.push_to_hub(gz.GANPipeline(generator), "me/gan", samples=0, standalone=True)
        code = """
            import torch
            from diffusers import AutoModel, DiffusionPipeline
            from huggingface_hub import snapshot_download
            offline = {offline}
            # The Hub is asked for the commit of remote code: without it, folders of the cache are named.
            names = ["me/ddpm", "me/small", "me/gan"]
            ddpm, small, gan = map(snapshot_download, names) if offline else names
            unet = DiffusionPipeline.from_pretrained("me/ddpm", trust_remote_code=True).unet
            same = AutoModel.from_pretrained(ddpm, subfolder="unet", trust_remote_code=True)
            small = AutoModel.from_pretrained(small, trust_remote_code=True)
            pipe = DiffusionPipeline.from_pretrained(gan, trust_remote_code=True)
            [] if offline else [snapshot_download(f"me/{name}") for name in ("ddpm", "small", "gan")]  # the cards, too
            x, z = torch.load("inputs.pt")
            with torch.no_grad():
                outputs = [unet(x, 3).sample, same(x, 3).sample, small(z, noise_mode="const").sample,
                           pipe.generator(z, noise_mode="const").sample]
            torch.save(outputs, "outputs.pt")
            try:
                import hf_ganzip
            except ImportError:
                print("alone")
        """
        x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 8)
        torch.save((x, z), tmp_path / "inputs.pt")
        with torch.no_grad():
            a, b = unet(x, 3).sample, generator(z, noise_mode="const").sample
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        online["HF_TOKEN"] = os.environ["HF_TOKEN"]
        for offline, changes in ((False, online), (True, {"HF_HUB_OFFLINE": "1"})):
            asked = len(hub.requests)
            said = in_fresh_process(code.replace("{offline}", str(offline)), tmp_path, **changes)
            assert said == "alone" and (len(hub.requests) == asked) == offline
            for found, expected in zip(torch.load(tmp_path / "outputs.pt"), (a, a, b, b)):
                assert torch.equal(found, expected)

    def test_two_repositories_in_one_process(self, tmp_path):
        """diffusers executes every file in one package, by its name, and again for each repository."""
        models = {"a": quantized(), "b": quantized(bits=3), "c": quantized(tiny_stylegan3())}
        for name, model in models.items():
            gz.save_for_hub(gz.GANPipeline(model), tmp_path / name, standalone=True)
        in_fresh_process(
            """
            from diffusers import DiffusionPipeline
            pipes = {name: DiffusionPipeline.from_pretrained(name, trust_remote_code=True) for name in "abc"}
            assert type(pipes["a"]) is type(pipes["b"]) and type(pipes["a"].generator) is type(pipes["b"].generator)
            for name, pipe in pipes.items():
                pipe.generator.float()
                pipe.generator.save_pretrained("again-" + name)
            """,
            tmp_path,
        )
        for name, model in models.items():
            assert torch.equal(run(gz.load_model(tmp_path / f"again-{name}")), run(model))

    def test_standalone_then_the_package(self, tmp_path):
        gz.save_for_hub(quantized(tiny_generator(num_classes=0)), tmp_path / "model", standalone=True)
        said = in_fresh_process(
            """
            import sys, torch
            from diffusers import AutoModel
            first = AutoModel.from_pretrained("model", trust_remote_code=True)
            import hf_ganzip as gz
            second = gz.load_model("model")
            z = torch.randn(2, 8)
            first, images = (model(z, noise_mode="const").sample for model in (first, second))
            print(torch.equal(first, images), type(second).__module__)
            """,
            tmp_path,
            without_us=False,
        )
        assert said == "True hf_ganzip.models.stylegan2"

    def test_refusals(self, tmp_path):
        """Without trust; thin where the package is not installed; standalone, but edited by hand."""
        gz.save_for_hub(quantized(), tmp_path / "thin")
        gz.save_for_hub(gz.GANPipeline(quantized()), tmp_path / "pipe", standalone=True)
        gz.save_for_hub(quantized(), tmp_path / "edited", standalone=True)
        (file,) = (tmp_path / "edited").glob("*.py")
        file.write_text(file.read_text().replace("float32", "float64", 1))
        said = in_fresh_process(
            """
            import json
            from diffusers import AutoModel, DiffusionPipeline
            def refusal(cls, name, **options):
                try:
                    cls.from_pretrained(name, **options)
                except (ImportError, ValueError) as error:
                    return str(error)
            trust = {"trust_remote_code": True}
            said = [refusal(AutoModel, "thin"), refusal(DiffusionPipeline, "pipe")]
            print(json.dumps([*said, refusal(AutoModel, "thin", **trust), refusal(AutoModel, "edited", **trust)]))
            """,
            tmp_path,
        )
        *untrusted, thin, edited = json.loads(said)
        assert all("Pass `trust_remote_code=True` to allow loading remote code" in each for each in untrusted)
        assert thin.endswith("which is not installed: pip install hf_ganzip")
        assert "is not as hf_ganzip wrote it: its SHA-256 is" in edited and "download it again" in edited
