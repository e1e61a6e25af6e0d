# SPDX-License-Identifier: Apache-2.0
"""What stands in repositories that diffusers opens with ``trust_remote_code=True``, and how this package opens them."""

import ast
import json
import subprocess
import sys

import pytest
import torch
from diffusers import AutoModel, DDPMPipeline, DDPMScheduler, DiffusionPipeline

import hf_ganzip as gz
from hf_ganzip.core.hub import parts_of
from hf_ganzip.publishing.standalone import standalone_code
from hf_ganzip.saved.folder import open_saved, read_saved
from hf_ganzip.saved.inspection import describe

from ..conftest import TINY, run, tiny_discriminator, tiny_generator, tiny_stylegan3, tiny_unet
from ..test_transformers import text_encoder
from .conftest import GENERATORS, in_fresh_process, pruned_unet, quantized


pytestmark = pytest.mark.filterwarnings("default:Use 'content=:DeprecationWarning")  # huggingface_hub's call of httpx


class TestFiles:
    def test_a_model_which_saved_again_by_itself_has_none(self, tmp_path, caplog):
        gz.save_for_hub(quantized(), tmp_path / "hub")
        text = (tmp_path / "hub/hf_ganzip_code.py").read_text()
        assert "pip install hf_ganzip" in text and len(text.splitlines()) < 20
        config = json.loads((tmp_path / "hub/config.json").read_text())
        assert config["auto_map"] == {"AutoModel": "hf_ganzip_code.StyleGAN2Generator"}
        gz.load_model(tmp_path / "hub").save_pretrained(tmp_path / "bare")
        assert not list((tmp_path / "bare").glob("*.py")) and "auto_map" not in caplog.text
        assert "auto_map" not in (tmp_path / "bare/config.json").read_text()

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
        gz.save_for_hub(tiny_unet(), tmp_path / "model", standalone=True)
        gz.save_for_hub(DDPMPipeline(tiny_unet(), DDPMScheduler()), tmp_path / "pipeline")
        assert not list(tmp_path.rglob("*.py")) and "auto_map" not in (tmp_path / "model/config.json").read_text()

    def test_saving_again_leaves_one_form_which_is_the_same_every_time(self, tmp_path):
        forms = []
        for standalone in (True, False, True):
            gz.save_for_hub(gz.GANPipeline(quantized()), tmp_path, standalone=standalone)
            forms.append({str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.py")})
        assert forms[0] == forms[2] and set(forms[1]) == {"generator/hf_ganzip_code.py", "hf_ganzip_code.py"}

    def test_where_a_standalone_file_cannot_be(self, tmp_path):
        with pytest.raises(ValueError, match="is a StyleGAN2Discriminator, which is trained with hf_ganzip"):
            gz.save_for_hub(quantized(tiny_discriminator()), tmp_path / "discriminator", standalone=True)
        encoder = quantized(text_encoder())
        with pytest.raises(ValueError, match="transformers loads the model, a CLIPTextModel"):
            gz.save_for_hub(encoder, tmp_path / "encoder", standalone=True)
        gz.save_for_hub(encoder, tmp_path / "thin")
        assert not list(tmp_path.rglob("*.py"))


class TestStandaloneText:
    @pytest.mark.parametrize("build", [*GENERATORS, TINY["ugatit"]])
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
        )
        assert said == "SynthesisLayer_of_stylegan2_layers SynthesisLayer_of_stylegan3_layers"


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

    def test_a_push_replaces_the_other_form_and_a_hub_gives_it_back(self, hub, equal):
        model = quantized()
        gz.push_to_hub(gz.GANPipeline(model), "me/gan", samples=0, standalone=True)
        found = gz.push_to_hub(gz.GANPipeline(model), "me/gan", samples=0)
        assert set(hub.repositories["me/gan"].files) == set(found.files)
        assert "generator/hf_ganzip_code.py" in found.files
        assert torch.equal(run(gz.GANPipeline.from_pretrained("me/gan").generator), run(model))

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
