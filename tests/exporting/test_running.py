# SPDX-License-Identifier: Apache-2.0
"""Exported models called like the models that they were."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

import hf_ganzip as gz
from hf_ganzip.exporting import OnnxModel, OnnxTranslator
from hf_ganzip.exporting.libraries import Session

from ..conftest import TINY, gan_pipeline, perturbed, sources, tiny_generator, tiny_unet


pytestmark = pytest.mark.process  # every export takes seconds; those of `make test` are in test_export.py


def opened(model, folder, cls=gz.OnnxGenerator, **options):
    """The model exported into a folder, and opened."""
    gz.export(model, folder / "out", checks=1)
    return cls.from_pretrained(folder / "out", **options)


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    """A packed StyleGAN2 and its export."""
    torch.manual_seed(0)
    model = perturbed(tiny_generator())  # with noise
    gz.quantize_(model, bits=4)
    return model, opened(model, tmp_path_factory.mktemp("styled"))


close = functools.partial(torch.testing.assert_close, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("mode", ("random", "const", "none"))
@pytest.mark.parametrize("cutoff", (None, 2))
def test_the_call_of_a_stylegan(styled, mode, cutoff):
    model, exported = styled
    z = exported.draw_latents(3, sources(0, 1, 2))
    assert torch.equal(z, model.draw_latents(3, sources(0, 1, 2))) and exported.num_ws == model.num_ws
    options = {"truncation_psi": 0.6, "truncation_cutoff": cutoff, "noise_mode": mode}
    for labels in (torch.tensor([0, 1, 2]), torch.eye(3)):
        expected = model(z, labels, **options, generator=sources(0, 1, 2)).sample
        close(exported(z, labels, **options, generator=sources(0, 1, 2)).sample, expected)
    ws = exported.mapping(z, torch.eye(3), truncation_psi=0.6, truncation_cutoff=cutoff)
    close(exported.synthesize(ws, noise_mode=mode, generator=sources(0, 1, 2)), expected)


def test_in_the_pipeline(styled):
    found = []
    for model in styled:
        pipe = gan_pipeline(model, class_names=["a", "b", "c"])
        z, other = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
        images = pipe(3, "b", truncation_psi=0.7, generator=sources(0, 1, 2), output_type="np").images
        mixed = pipe(latents=z, mixing_latents=other, mixing_cutoff=2, noise_mode="const", output_type="np").images
        found.append((images, mixed, pipe.interpolate(latents=z, steps=2, output_type="np")))
    for one, two in zip(*found):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_wrong_calls(styled):
    exported = styled[1]
    with pytest.raises(ValueError, match="z has shape"):
        exported(torch.randn(2, 9), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="class_labels is required"):
        exported(torch.randn(2, 8))
    with pytest.raises(ValueError, match="noise_mode is 'some'"):
        exported(torch.randn(2, 8), torch.tensor([0, 1]), noise_mode="some")
    with pytest.raises(ValueError, match=r"providers is \['NoSuchProvider'\].*CPUExecutionProvider"):
        gz.OnnxGenerator.from_pretrained(exported.folder, providers=["NoSuchProvider"])
    with pytest.raises(ValueError, match="threads 0"):
        gz.OnnxGenerator.from_pretrained(exported.folder, threads=0)
    with pytest.raises(TypeError, match="has no option 'torch_dtype'"):
        gz.OnnxGenerator.from_pretrained(exported.folder, torch_dtype=torch.float16)
    with pytest.raises(
        ValueError, match="an exported StyleGAN2Generator; allowed for OnnxUNet2DModel are UNet2DModel"
    ):
        gz.OnnxUNet2DModel.from_pretrained(exported.folder)


def test_folders_that_are_no_export(styled, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no export: it has no model.onnx"):
        gz.OnnxGenerator.from_pretrained(tmp_path)
    tiny_generator().save_pretrained(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="is no export"):
        gz.OnnxGenerator.from_pretrained(tmp_path / "model")
    damaged = tmp_path / "damaged"
    shutil.copytree(styled[1].folder, damaged)
    (damaged / "model.onnx").write_bytes((damaged / "model.onnx").read_bytes()[:500])
    with pytest.raises(ValueError, match="does not open"):
        gz.OnnxGenerator.from_pretrained(damaged)
    (damaged / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        gz.OnnxGenerator.from_pretrained(damaged)


def test_what_an_export_fixed_cannot_be_asked_for(tmp_path):
    model, fixed = tiny_generator(), {"truncation_psi": 0.5, "class_label": 1, "noise": "none"}
    report = gz.export(model, tmp_path / "out", **fixed, checks=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: config["export"][name] for name in fixed} == fixed and config["z_dim"] == 8
    assert list(report.inputs) == ["z"]
    exported = gz.OnnxGenerator.from_pretrained(tmp_path / "out")
    z = torch.randn(2, 8)
    with torch.no_grad():
        expected = model(z, torch.tensor([1, 1]), truncation_psi=0.5, noise_mode="none").sample
    close(exported(z, noise_mode="none").sample, expected)
    for options in ({"truncation_psi": 0.7}, {"noise_mode": "random"}, {"class_labels": torch.tensor([0, 1])}):
        with pytest.raises(ValueError, match="was exported with"):
            exported(z, **{"noise_mode": "none"} | options)


@pytest.mark.parametrize("name", ("biggan", "biggan_deep", "stylegan"))
def test_other_generators_in_the_pipeline(name, tmp_path):
    model = TINY[name]()
    gz.quantize_(model, bits=4)
    pipes = map(gan_pipeline, (model, opened(model, tmp_path, threads=1)))
    found = [pipe(3, generator=sources(0, 1, 2), output_type="np").images for pipe in pipes]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_translation_in_the_pipeline(tmp_path):
    model = TINY["ugatit"]()
    images = torch.rand(2, 3, 16, 16)
    found = []
    for each in (model, opened(model, tmp_path, OnnxTranslator)):
        found.append(gz.ImageTranslationPipeline(each)(images, output_type="np").images)
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("classes", (None, 4))
def test_unets_in_pipelines_of_diffusers(classes, tmp_path):
    model = tiny_unet(num_class_embeds=classes)
    gz.quantize_(model, bits=4)
    exported = opened(model, tmp_path, gz.OnnxUNet2DModel)
    sample, labels = torch.randn(3, 3, 8, 8), None if classes is None else torch.tensor([0, 3, 1])
    with torch.no_grad():
        expected = model(sample, 7, class_labels=labels).sample
    close(exported(sample, 7, class_labels=labels).sample, expected)
    if classes is not None:
        return
    for pipeline, scheduler in ((DDPMPipeline, DDPMScheduler), (DDIMPipeline, DDIMScheduler)):
        found = []
        for unet in (model, exported):
            options = {"num_inference_steps": 4, "output_type": "np", "batch_size": 2}
            found.append(pipeline(unet, scheduler())(generator=sources(0)[0], **options).images)
        np.testing.assert_allclose(*found, atol=1e-3)


def test_any_other_model_by_the_names_of_its_inputs(tmp_path):
    from ..tiny_diffusion import transformer

    model = transformer()
    exported = opened(model, tmp_path, OnnxModel)
    inputs = {"hidden_states": torch.randn(3, 4, 8, 8)}
    inputs |= {"timestep": torch.tensor([1, 5, 9]), "class_labels": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        expected = model(**inputs, return_dict=False)[0]
    close(exported(**inputs)[0], expected)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())["export"]
    assert saved["class_name"] == "DiTTransformer2DModel"


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("name", ("generator", "biggan", "unet"))
def test_openvino_opens_the_same_files(name, bits, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = TINY[name]()
    gz.quantize_(model, bits=bits, headroom=0.0)  # it computes packed bytes wrongly
    options = {"noise": "const"} if name == "generator" else {}
    report = gz.export(model, tmp_path / "out", checks=1, **options)
    core, random = openvino.Core(), np.random.default_rng(0)
    compiled = core.compile_model(core.read_model(report.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shapes = {name: [2 if each == "batch" else each for each in shape] for name, shape in report.inputs.items()}
    feeds = {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    if "timestep" in feeds:
        feeds["timestep"] = np.array([5, 400])
    found = compiled(feeds)[compiled.output(0)]
    expected = Session(report.file)(feeds, [report.outputs[0]])[0]
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())
