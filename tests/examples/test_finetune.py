# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning examples as users run them."""

import json

import pytest
from diffusers import DDPMPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.record import recorded_steps

from ..hub import LocalHub
from .test_train_stylegan2 import ROOT, launch


RECIPE = """
- step: prune
  criterion: magnitude
  criterion_options: {samples: 4}
  ratio: 0.5
- step: refine
  progress: false
"""


@pytest.mark.parametrize("name, cls", [("stylegan2", gz.StyleGAN2Generator), ("stylegan3", gz.StyleGAN3Generator)])
def test_gans(tmp_path, name, cls):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    script, out = ROOT / "examples" / f"finetune_{name}.py", tmp_path / "out"
    flags = ("--smoke", "--output_dir", out, "--recipe", tmp_path / "recipe.yaml")
    result = launch(*flags, script=script)
    assert "64 images; student" in result.stdout
    model = cls.from_pretrained(out / "generator")
    assert [step["name"] for step in recorded_steps(model)] == ["prune", "refine", "finetune"]
    assert sorted(path.name for path in out.glob("checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    assert (out / "discriminator" / "config.json").is_file() and (out / "samples" / "step-0000004.png").is_file()
    launch(*flags, "--resume_from_checkpoint", "latest", script=script)


def test_ddpm(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("  criterion_options: {samples: 4}\n", ""))
    script, out = ROOT / "examples" / "finetune_ddpm.py", tmp_path / "out"
    launch("--smoke", "--output_dir", out, "--recipe", tmp_path / "recipe.yaml", script=script)
    model = UNet2DModel.from_pretrained(out / "unet")
    assert [step["name"] for step in recorded_steps(model)] == ["prune", "refine", "finetune"]
    assert DDPMPipeline.from_pretrained(out / "pipeline").unet.num_parameters() == model.num_parameters()
    assert json.loads((out / "report.json").read_text())["options"]["dropout"] == 0.1


def test_ddpm_from_scratch(tmp_path):
    launch("--smoke", "--output_dir", tmp_path, script=ROOT / "examples" / "train_ddpm.py")
    assert (tmp_path / "samples" / "step-0000004.png").is_file()
    assert UNet2DModel.from_pretrained(tmp_path / "unet").num_parameters() > 0


def test_push_to_hub(tmp_path):
    with LocalHub() as hub:
        environment = hub.environment(tmp_path / "cache")
        flags = ("--smoke", "--output_dir", tmp_path / "tiny-ddpm", "--push_to_hub")
        launch(*flags, script=ROOT / "examples" / "finetune_ddpm.py", environment=environment)
        files = hub.repositories["me/tiny-ddpm"].files
    assert {"README.md", "config.json", "diffusion_pytorch_model.safetensors", "samples.png"} == set(files)
    assert "step: finetune" in files["README.md"].decode()
