# SPDX-License-Identifier: Apache-2.0
"""Repositories that diffusers opens with ``trust_remote_code=True``, with hf_ganzip and where it cannot be imported."""

import ast
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from diffusers import AutoModel, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.core.hub import parts_of
from hf_ganzip.publishing.remote_code import write_code
from hf_ganzip.publishing.standalone import standalone_code
from hf_ganzip.saved.folder import open_saved, read_saved
from hf_ganzip.saved.inspection import describe

from ..conftest import (
    TINY_UNET,
    run,
    tiny_biggan,
    tiny_biggan_deep,
    tiny_discriminator,
    tiny_generator,
    tiny_stylegan,
    tiny_stylegan3,
    tiny_ugatit,
)


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx
WITHOUT_US = "import sys; sys.modules['hf_ganzip'] = None\n"  # whoever imports it, or a part, gets an ImportError
GENERATORS = (tiny_generator, tiny_stylegan, tiny_stylegan3, tiny_biggan, tiny_biggan_deep)


def quantized(model=None, bits=4):
    model = model or tiny_generator()
    gz.quantize_(model, gz.QuantizeConfig(bits=bits))
    return model


def pruned_unet():
    unet = UNet2DModel(**TINY_UNET).eval()
    gz.prune_(unet, gz.PruneConfig("random", 0.5))
    return quantized(unet)


def in_fresh_process(code, folder, *, without_us, **changes):
    """Last line of the standard output; the process has not imported hf_ganzip, or cannot."""
    code = (WITHOUT_US if without_us else "") + textwrap.dedent(code)
    environment = os.environ | {"HF_HOME": str(folder / "home")} | changes
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout.strip().rpartition("\n")[2]


REFUSED = """
    from diffusers import AutoModel
    try:
        AutoModel.from_pretrained("model", trust_remote_code=True)
    except ImportError as error:
        print(error)
"""


class TestFiles:
    def test_a_model(self, tmp_path):
        gz.save_for_hub(quantized(), tmp_path)
        text = (tmp_path / "hf_ganzip_code.py").read_text()
        assert "pip install hf_ganzip" in text and len(text.splitlines()) < 20
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["auto_map"] == {"AutoModel": "hf_ganzip_code.StyleGAN2Generator"}

    def test_a_pipeline_of_ours(self, tmp_path):
        gz.save_for_hub(gz.GANPipeline(quantized()), tmp_path, standalone=True)
        (root,), (part,) = tmp_path.glob("*.py"), tmp_path.glob("generator/*.py")
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert root.name == part.name and index["_class_name"] == [root.stem, "GANPipeline"]
        assert index["generator"] == [root.stem, "StyleGAN2Generator"]
        assert index["auto_map"] == {"AutoModel": f"{root.stem}.StyleGAN2Generator"}
        assert read_saved(tmp_path).class_name == describe(tmp_path)["class_name"] == "GANPipeline"
        assert parts_of(tmp_path) == {"generator": "StyleGAN2Generator"}

    def test_a_pipeline_of_diffusers(self, tmp_path):
        gz.save_for_hub(DDPMPipeline(pruned_unet(), DDPMScheduler()), tmp_path)
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert index["_class_name"] == "DDPMPipeline" and index["unet"] == ["hf_ganzip_code", "UNet2DModel"]
        assert [path.parent.name for path in tmp_path.rglob("*.py")] == ["unet"]

    def test_what_diffusers_opens_by_itself_gets_no_code(self, tmp_path):
        gz.save_for_hub(UNet2DModel(**TINY_UNET), tmp_path / "model", standalone=True)
        gz.save_for_hub(DDPMPipeline(UNet2DModel(**TINY_UNET), DDPMScheduler()), tmp_path / "pipeline")
        assert not list(tmp_path.rglob("*.py")) and "auto_map" not in (tmp_path / "model/config.json").read_text()

    def test_bare_folders_stay_as_they_are(self, tmp_path, caplog):
        gz.save_for_hub(quantized(), tmp_path / "hub")
        model = gz.load_model(tmp_path / "hub")
        model.save_pretrained(tmp_path / "bare")
        assert not list((tmp_path / "bare").glob("*.py")) and "auto_map" not in caplog.text
        assert "auto_map" not in (tmp_path / "bare/config.json").read_text()

    def test_saving_again_leaves_one_form(self, tmp_path):
        pipe = gz.GANPipeline(quantized())
        gz.save_for_hub(pipe, tmp_path, standalone=True)
        gz.save_for_hub(pipe, tmp_path)
        found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
        assert found == ["generator/hf_ganzip_code.py", "hf_ganzip_code.py"]

    def test_where_a_standalone_file_cannot_be(self, tmp_path):
        with pytest.raises(ValueError, match="is a StyleGAN2Discriminator, which is trained with hf_ganzip"):
            gz.save_for_hub(quantized(tiny_discriminator()), tmp_path / "discriminator", standalone=True)
        from ..test_transformers import text_encoder

        encoder = quantized(text_encoder())
        with pytest.raises(ValueError, match="transformers loads the model, a CLIPTextModel"):
            gz.save_for_hub(encoder, tmp_path / "encoder", standalone=True)
        gz.save_for_hub(encoder, tmp_path / "thin")
        assert not list(tmp_path.rglob("*.py"))


class TestStandaloneText:
    @pytest.mark.parametrize("build", [*GENERATORS, tiny_ugatit])
    def test_it_is_whole_and_imports_nothing_of_ours(self, build):
        cls = type(build())
        text = standalone_code("One.", [(cls.__module__, cls.__name__)], opens_packed=True)
        tree = ast.parse(text)
        imported = {
            (getattr(node, "module", None) or node.names[0].name).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        others = imported - set(sys.stdlib_module_names)
        assert others <= {"torch", "diffusers", "numpy"}
        assert not any(getattr(node, "level", 0) for node in ast.walk(tree))
        names = [name for node in tree.body for name in [getattr(node, "name", None)] if name]
        assert len(names) == len(set(names)) and cls.__name__ in names
        found = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", "-"],
            input=text, text=True, capture_output=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout

    @pytest.mark.process
    def test_names_of_two_modules(self, tmp_path):
        """Both StyleGANs have a SynthesisLayer of their own."""
        roots = [
            ("hf_ganzip.models.stylegan2", "StyleGAN2Generator"),
            ("hf_ganzip.models.stylegan3", "StyleGAN3Generator"),
        ]
        text = standalone_code("Two.", roots, opens_packed=False)
        (tmp_path / "two.py").write_text(text)
        torch.save([tiny_generator().state_dict(), tiny_stylegan3().state_dict()], tmp_path / "weights.pt")
        said = in_fresh_process(
            f"""
            import torch, two
            first, second = torch.load("weights.pt")
            config = {dict(tiny_generator().config)!r}
            two.StyleGAN2Generator.from_config(config).load_state_dict(first)
            two.StyleGAN3Generator.from_config({dict(tiny_stylegan3().config)!r}).load_state_dict(second)
            print(two.SynthesisLayer_of_stylegan2_layers.__name__, two.SynthesisLayer_of_stylegan3_layers.__name__)
            """,
            tmp_path,
            without_us=True,
        )
        assert said == "SynthesisLayer_of_stylegan2_layers SynthesisLayer_of_stylegan3_layers"

    def test_it_is_the_same_every_time(self, tmp_path):
        for name in "ab":
            gz.save_for_hub(quantized(), tmp_path / name, standalone=True)
        (a,), (b,) = (list((tmp_path / name).glob("*.py")) for name in "ab")
        assert a.name == b.name and a.read_text() == b.read_text()


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
            ddpm, small, gan = (snapshot_download(f"me/{name}") if offline else f"me/{name}" for name in ("ddpm", "small", "gan"))
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
            said = in_fresh_process(code.replace("{offline}", str(offline)), tmp_path, without_us=True, **changes)
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
            without_us=True,
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
            print(torch.equal(first(z, noise_mode="const").sample, second(z, noise_mode="const").sample), type(second).__module__)
            """,
            tmp_path,
            without_us=False,
        )
        assert said == "True hf_ganzip.models.stylegan2"

    def test_thin_without_the_package_says_what_to_install(self, tmp_path):
        gz.save_for_hub(quantized(), tmp_path / "model")
        said = in_fresh_process(REFUSED, tmp_path, without_us=True)
        assert said.endswith("which is not installed: pip install hf_ganzip")

    def test_no_trust(self, tmp_path):
        gz.save_for_hub(quantized(), tmp_path / "model")
        gz.save_for_hub(gz.GANPipeline(quantized()), tmp_path / "pipe", standalone=True)
        said = in_fresh_process(
            """
            from diffusers import AutoModel, DiffusionPipeline
            said = []
            for cls, name in ((AutoModel, "model"), (DiffusionPipeline, "pipe")):
                try:
                    cls.from_pretrained(name)
                except ValueError as error:
                    said.append("Pass `trust_remote_code=True` to allow loading remote code" in str(error))
            print(said)
            """,
            tmp_path,
            without_us=True,
        )
        assert said == "[True, True]"

    def test_edited_by_hand(self, tmp_path):
        gz.save_for_hub(quantized(), tmp_path / "model", standalone=True)
        (file,) = (tmp_path / "model").glob("*.py")
        file.write_text(file.read_text().replace("float32", "float64", 1))
        said = in_fresh_process(REFUSED, tmp_path, without_us=True)
        assert "is not as hf_ganzip wrote it: its SHA-256 is" in said and "download it again" in said


class TestWithThePackage:
    """Nothing of the repository is executed, and nothing has to be trusted."""

    @pytest.mark.parametrize("standalone", [False, True], ids=["thin", "standalone"])
    def test_its_own_classes_are_taken(self, tmp_path, standalone):
        model, unet = quantized(), pruned_unet()
        gz.save_for_hub(gz.GANPipeline(model), tmp_path / "gan", standalone=standalone)
        gz.save_for_hub(DDPMPipeline(unet, DDPMScheduler()), tmp_path / "ddpm", standalone=standalone)
        for file in tmp_path.rglob("*.py"):
            file.write_text("raise SystemExit('executed')")
        for pipe in (
            gz.GANPipeline.from_pretrained(tmp_path / "gan"),
            DiffusionPipeline.from_pretrained(tmp_path / "gan"),
            open_saved(tmp_path / "gan"),
        ):
            assert type(pipe) is gz.GANPipeline and torch.equal(run(pipe.generator), run(model))
        for pipe in (DDPMPipeline.from_pretrained(tmp_path / "ddpm"), open_saved(tmp_path / "ddpm")):
            assert torch.equal(run(pipe.unet), run(unet))
        assert torch.equal(run(gz.load_model(tmp_path / "ddpm")), run(unet))
        found = AutoModel.from_pretrained(str(tmp_path / "ddpm"), subfolder="unet", trust_remote_code=True)
        assert torch.equal(run(found), run(unet))

    def test_from_a_hub(self, hub, equal):
        model = quantized()
        gz.push_to_hub(gz.GANPipeline(model), "me/gan", samples=0)
        assert torch.equal(run(gz.GANPipeline.from_pretrained("me/gan").generator), run(model))

    def test_a_push_replaces_the_other_form(self, hub, equal):
        model = quantized()
        gz.push_to_hub(gz.GANPipeline(model), "me/gan", samples=0, standalone=True)
        found = gz.push_to_hub(gz.GANPipeline(model), "me/gan", samples=0)
        assert set(hub.repositories["me/gan"].files) == set(found.files)
        assert "generator/hf_ganzip_code.py" in found.files

    def test_modules_of_others_are_executed_as_ever(self, tmp_path):
        gz.save_for_hub(quantized(), tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "theirs.Theirs"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "theirs.py").write_text(
            "class Theirs:\n    from_pretrained = classmethod(lambda *a, **k: Theirs())\n"
        )
        found = AutoModel.from_pretrained(str(tmp_path), trust_remote_code=True)
        assert type(found).__name__ == "Theirs"
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            AutoModel.from_pretrained(str(tmp_path))


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_code(tmp_path)
