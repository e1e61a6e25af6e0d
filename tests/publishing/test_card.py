# SPDX-License-Identifier: Apache-2.0
"""Cards say what is on record and in reports, and nothing else."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard

import hf_ganzip as gz
from hf_ganzip.assets import ASSETS, asset_path
from hf_ganzip.checkpoints import save_converted
from hf_ganzip.core.record import Step, record_step, recorded_steps
from hf_ganzip.evaluation.cost import Cost, CostReport
from hf_ganzip.evaluation.evaluate import EvaluationReport
from hf_ganzip.publishing import render_card
from hf_ganzip.publishing.card import recipe_of
from hf_ganzip.publishing.metadata import _PIPELINES, hub_id
from hf_ganzip.recipes import compress, read_recipe
from hf_ganzip.saved.folder import read_saved

from ..conftest import TINY_UNET, tiny_generator


ROOT = Path(__file__).parents[2]
COST = CostReport(
    Cost(1000, 2_000_000, 2**20, 2**20, None, 0.010),
    Cost(1000, 2_000_000, 4 * 2**20, 4 * 2**20, None, 0.010),
    {"device": "cpu", "machine": "x86_64, 2 threads"},
)


def metadata(text):
    return yaml.safe_load(text.split("---")[1])


def finished(steps, tmp_path, **origin):
    """Folder of a generator with the given steps done."""
    model = tiny_generator()
    model.register_to_config(**{f"_{key}": value for key, value in origin.items()})
    for step in steps:
        {
            "prune": lambda: gz.prune_(model, gz.PruneConfig("random", 0.5)),
            "refine": lambda: gz.refine_(model, gz.RefineConfig(progress=False)),
            "train": lambda: record_step(model, Step("train", {})),
            "finetune": lambda: record_step(model, Step("finetune", {"max_train_steps": 5})),
            "quantize": lambda: gz.quantize_(model, "aciq", bits=4),
        }[step]()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class TestMetadata:
    def test_quantized(self, tmp_path):
        folder = finished(["quantize"], tmp_path, name_or_path="org/full@abc")
        text = render_card(folder, "me/small", license="mit")
        found = metadata(text)
        assert found["base_model"] == "org/full" and found["base_model_relation"] == "quantized"
        assert "of [org/full](https://huggingface.co/org/full/tree/abc) at revision abc" in text
        assert found["license"] == "mit" and found["library_name"] == "hf_ganzip"
        assert {"quantized", "4-bit", "diffusers"} <= set(found["tags"]) and "pruned" not in found["tags"]
        assert found["pipeline_tag"] == "unconditional-image-generation"

    def test_pipelines_with_a_task_are_of_us_or_diffusers(self):
        assert not [name for name in _PIPELINES if not hasattr(gz, name) and not hasattr(diffusers, name)]

    def test_pruned_is_a_finetune(self, tmp_path):
        steps = ["train", "prune", "refine", "finetune", "quantize"]
        folder = finished(steps, tmp_path, name_or_path="org/full")
        text = render_card(folder, "me/small")
        found = metadata(text)
        assert found["base_model_relation"] == "finetune" and {"pruned", "quantized"} <= set(found["tags"])
        assert found["license"] == "other" and "was not stated" in text
        assert "trained, pruned, refined, fine-tuned, quantized of [org/full]" in text

    def test_a_local_folder_is_no_base_model(self, tmp_path):
        tiny_generator().save_pretrained(tmp_path / "full")
        model = gz.StyleGAN2Generator.from_pretrained(tmp_path / "full")
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model.save_pretrained(tmp_path / "small")
        text = render_card(tmp_path / "small", "me/small")
        assert "base_model" not in metadata(text) and "quantized of a model in a local folder, `full`." in text
        assert metadata(render_card(tmp_path / "small", "me/s", base_model="org/full"))["base_model"] == "org/full"

    def test_what_is_no_hub_id(self):
        assert {hub_id(origin) for origin in ("folder", "/a/b", "./a", "")} == {""}

    def test_costs_beside_those_of_the_full_model(self, tmp_path):
        text = render_card(finished(["quantize"], tmp_path), "me/small", report=COST.to_dict())
        assert "| weights on disk | 4.00 MiB | 1.00 MiB | 4.00x |" in text and "x86_64, 2 threads" in text
        assert "4.00x smaller on disk, not faster" in text

    def test_a_given_base_without_steps_has_no_relation(self, tmp_path):
        found = metadata(render_card(finished([], tmp_path), "me/full", base_model="org/full"))
        assert found["base_model"] == "org/full" and "base_model_relation" not in found

    def test_of_several_evaluations_model_index_has_those_of_this_model(self, tmp_path):
        folder = finished(["quantize"], tmp_path, name_or_path="org/full")

        def measured(name, distance):
            figures = {"frechet_distance": {"frechet_distance": float(distance)}}
            return EvaluationReport(figures, {"reference": "org/images", "generated": name})

        def indexed(*names):
            reports = [measured(name, i) for i, name in enumerate(names)]
            text = render_card(folder, "me/small", report=reports)
            assert all(f"| {Path(name).name} | {i}.000 |" in text for i, name in enumerate(names))
            return [result.metric_value for result in ModelCard(text).data.eval_results or ()]

        assert indexed("full", "small") == [1] and indexed("a/model", "model:me/small", "other") == [0, 1]
        assert indexed("org/full", "anything", "else") == [1]  # no name fits: the first that is not the base's
        text = render_card(folder, "me/small", report=measured("full", 3))
        assert "model-index" not in text and "| full | 3.000 |" in text

    def test_a_licence_in_the_readme_beside_the_model_is_inherited(self, tmp_path):
        folder = finished(["quantize"], tmp_path)
        stated = {"license": "other", "license_name": "mine", "license_link": "https://x.org"}
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump(stated)}---\n")
        assert stated.items() <= metadata(render_card(folder, "me/small")).items()
        assert metadata(render_card(folder, "me/small", license="mit"))["license"] == "mit"
        (folder / "README.md").write_text("---\nlicense: other\nlicense_name: unknown\n---\n")
        assert "was not stated" in render_card(folder, "me/small")
        (folder / "README.md").write_text("---\nlicense: [\n---\n")
        with pytest.raises(ValueError, match="README.md is no YAML"):
            render_card(folder, "me/small")

    def test_the_licence_of_a_converted_checkpoint_is_inherited(self, tmp_path):
        source = {"format": "f", "file": "x.pkl", "sha256": "00", "network": "G", "url": "", "license": "cc-by-4.0"}
        source |= {"stated": True, "notes": ["a note"]}
        text = render_card(finished(["quantize"], tmp_path, ganzip_source=source), "me/small")
        assert metadata(text)["license"] == "cc-by-4.0" and "| SHA-256 | 00 |" in text and "- a note" in text
        unknown = tmp_path / "unknown"
        unknown.mkdir()
        text = render_card(finished(["quantize"], unknown, ganzip_source=source | {"stated": False}), "me/small")
        assert metadata(text)["license"] == "other" and metadata(text)["license_name"] == "cc-by-4.0"
        assert "The licence cc-by-4.0 was inferred from the file's format, not stated" in text

    def test_the_readme_of_a_converted_checkpoint_states_no_licence(self, tmp_path):
        save_converted(gz.convert(ROOT / "tests/golden/pickles/stylegan3_t.pkl"), tmp_path)
        text = render_card(tmp_path, "me/full")
        assert metadata(text)["license_name"] == "nvidia-source-code-license-nc" and "was inferred from" in text


class TestText:
    def test_a_bundled_base_is_said_to_be_one(self, tmp_path):
        model = gz.load_model("stylegan2-fashion-mnist")
        gz.quantize_(model)
        model.save_pretrained(tmp_path / "small")
        text = render_card(tmp_path / "small", "me/small")
        assert "quantized of `stylegan2-fashion-mnist`, which comes with hf_ganzip" in text
        assert "The weights are under apache-2.0. The licence is that of stylegan2-fashion-mnist." in text
        assert "trust_remote_code" not in text  # save_pretrained writes no code

    @pytest.mark.parametrize("standalone", [False, True])
    @pytest.mark.parametrize("num_classes", [0, 3])
    def test_the_code_beside_the_weights_draws(self, tmp_path, num_classes, standalone):
        model = tiny_generator(num_classes=num_classes)
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        for name, saved in (("model", model), ("pipe", gz.GANPipeline(model))):
            gz.save_for_hub(saved, tmp_path / name, standalone=standalone)
            text = render_card(tmp_path / name, "me/small")
            assert "`import hf_ganzip` before `from_pretrained`, or `trust_remote_code=True`." in text
            (snippet,) = re.findall(r"```python\n([^`]*trust_remote_code=True.*?)\n```", text, re.DOTALL)
            names = {}
            exec(snippet.replace("me/small", str(tmp_path / name)), names)
            assert len(names["images"]) == 2

    def test_the_recipe_repeats_the_work(self, tmp_path):
        folder = finished(["prune", "quantize"], tmp_path)
        saved = read_saved(folder)
        text = render_card(folder, "me/small")
        recipe = recipe_of(saved.parts[""]["record"])
        assert recipe in text
        (tmp_path / "recipe.yaml").write_text(recipe)
        torch.manual_seed(0)
        again, _ = compress(tiny_generator(), read_recipe(tmp_path / "recipe.yaml"))
        first = gz.load_model(folder)
        assert all(torch.equal(x, first.state_dict()[name]) for name, x in again.state_dict().items())
        assert [step["name"] for step in recorded_steps(again)] == ["prune", "quantize"]

    @pytest.mark.parametrize("options", [{}, {"method": "codebook", "bits": 3, "granularity": "channel"}], ids=str)
    def test_a_recipe_names_method_and_bits_even_where_they_are_defaults(self, tmp_path, options):
        model = tiny_generator()
        config = gz.QuantizeConfig(**options)
        gz.quantize_(model, config)
        (step,) = yaml.safe_load(recipe_of(recorded_steps(model)))
        names = ("method", "bits", "granularity", "scale_dtype", "skip_last_block", "headroom")
        stated = {name: getattr(config, name) for name in names}
        assert bool(step.pop("method_options", None)) == bool(options)
        assert step == {"step": "quantize"} | stated and gz.QuantizeConfig(**stated) == config
        older = recorded_steps(model)[0]
        del older["options"]["headroom"]  # there was none
        assert yaml.safe_load(recipe_of([older]))[0]["headroom"] == 0.0 != step["headroom"]

    def test_layers_of_a_pipeline_carry_their_component(self, tmp_path):
        unet = UNet2DModel(**TINY_UNET)
        gz.quantize_(unet, gz.QuantizeConfig(bits=4))
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
        text = render_card(tmp_path / "pipeline", "me/pipeline")
        assert "| unet.mid_block." in text and "<details>" in text
        assert "from diffusers import DDPMPipeline" in text and "import hf_ganzip" in text
        assert metadata(text)["pipeline_tag"] == "unconditional-image-generation"

    def test_reports_of_another_kind(self, tmp_path):
        with pytest.raises(TypeError, match="a report is a int"):
            render_card(finished([], tmp_path), "me/small", report=[3])
        with pytest.raises(TypeError, match="keys foo is no report that a card shows"):
            render_card(tmp_path / "model", "me/small", report={"foo": 3})

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="has no config.json"):
            render_card(tmp_path, "me/small")

    @pytest.mark.parametrize(
        "file, content, message",
        [
            ("config.json", "{", "config.json is damaged"),
            ("config.json", "[]", "config.json is damaged"),
            ("config.json", "{}", "names no class"),
            ("config.json", '{"_class_name": "NoSuchNetwork"}', "the class 'NoSuchNetwork' is in none of"),
            ("diffusion_pytorch_model.safetensors", "no tensors", "is damaged"),
            ("model_index.json", "{", "model_index.json"),
            ("model_index.json", '{"unet": ["diffusers", "UNet2DModel"]}', "names no class"),
        ],
    )
    def test_damaged_folders(self, tmp_path, file, content, message):
        folder = finished([], tmp_path)
        (folder / file).write_text(content)
        with pytest.raises(ValueError, match=message):
            render_card(folder, "me/small")


BUNDLED = sorted(path.name for path in (ROOT / "model_cards").iterdir() if path.is_dir())


class TestCardsOfBundledModels:
    def test_there_is_one_for_every_model(self):
        assert set(BUNDLED) == {name for name in ASSETS if (asset_path(name) / "config.json").is_file()}

    @pytest.mark.parametrize("name", BUNDLED)
    def test_rendering_again_gives_the_same(self, name):
        folder = ROOT / "model_cards" / name
        reports = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        picture = "samples.png" if (folder / "samples.png").is_file() else None
        options = {"license": "apache-2.0", "datasets": ["zalando-datasets/fashion_mnist"], "picture": picture}
        assert (folder / "README.md").read_text() == render_card(asset_path(name), name, report=reports, **options)
