# SPDX-License-Identifier: Apache-2.0
"""Exported files: what they hold, and that they compute what torch computes."""

import collections
import functools
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.exporting import OnnxModel, export_parts, exporter, interface
from hf_ganzip.exporting.libraries import Session
from hf_ganzip.quantization.packed import packed_modules

from ..conftest import TINY, changed, state_of, tiny_biggan, tiny_generator, tiny_stylegan3, tiny_unet
from ..tiny_diffusion import CONDITIONS, FAMILIES


@functools.cache
def quantized(method="auto", bits=4, make=tiny_generator, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        gz.quantize_(model, method=method, bits=bits, **options)
    return model


def tensors(folder):
    """Initializer -> (type, shape)."""
    name, graph = onnx.TensorProto.DataType.Name, onnx.load(folder / "model.onnx").graph
    return {each.name: (name(each.data_type), tuple(each.dims)) for each in graph.initializer}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A packed model, the folder of its export, and the report."""
    model, folder = quantized(), tmp_path_factory.mktemp("exported") / "out"
    return model, folder, gz.export(model, folder)


def test_a_packed_model_keeps_its_integers(exported):
    model, folder, report = exported
    stored, packed = tensors(folder), packed_modules(model)
    for name, module in packed.items():
        if module.packed_layout.bits == 4:
            assert stored[f"{name}.weight_codes"] == ("INT4", module.packed_layout.shape)
    assert {weight.name for weight in report.weights} == {f"{name}.weight" for name in packed}
    assert all(weight.bytes == weight.packed_bytes for weight in report.weights)
    assert report.compared.largest_error < 1e-5 and report.inputs["z"] == ("batch", 8)


def test_the_plain_call_in_onnxruntime_repeats_the_model(exported):
    model, folder, _ = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    z, rows = torch.randn(5, 8), torch.eye(3)[[0, 1, 2, 0, 1]]
    feeds = {"z": z.numpy(), "class_labels": rows.numpy(), "truncation_psi": np.full(model.num_ws, 0.7, "float32")}
    expected = model(z, rows, truncation_psi=0.7, noise_mode="const").sample
    np.testing.assert_allclose(session.run(["sample"], feeds)[0], expected.detach(), atol=1e-5)


METHODS = {
    "linear, one scale": ("linear", 4, {"preset": "paper"}),
    "linear, 3 bits": ("linear", 3, {}),
    "clipped, offsets": ("aciq", 5, {}),
    "codebook, 2 bits": ("codebook", 2, {}),
    "codebook, 3 bits": ("codebook", 3, {}),
    "groups": ("mse_clip", 4, {"granularity": "group", "group_size": 16}),
    "7 bits": ("mse_clip", 7, {}),
    "8 bits": ("mse_clip", 8, {}),
    "split channels": ("outlier_splitting", 4, {}),
    "split channels, by channel": ("outlier_splitting", 4, {"granularity": "channel"}),
    "rotated": ("auto", 4, {"hadamard": True}),
    "low rank": ("auto", 4, {"svd_rank": 1}),
    "rotated, low rank": ("auto", 3, {"hadamard": True, "svd_rank": 1}),
}


@pytest.mark.process
@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_packed_weight(name, tmp_path):
    method, bits, options = METHODS[name]
    for make in (tiny_unet, tiny_generator):
        if make is tiny_generator and "svd_rank" in options:
            continue  # its layers are too small
        model = quantized(method, bits, make, **options)
        layouts = [module.packed_layout for module in packed_modules(model).values()]
        assert any(layout.rotation for layout in layouts) == ("hadamard" in options)
        assert any(layout.rank for layout in layouts) == ("svd_rank" in options)
        report = gz.export(model, tmp_path / make.__name__)
        assert report.compared.largest_error < 1e-4 and report.weights
        assert all(weight.bytes == weight.packed_bytes for weight in report.weights)


@pytest.mark.process
def test_two_bits_have_a_type_of_their_own_in_operator_set_25(tmp_path):
    report = gz.export(quantized("mse_clip", 2, headroom=0.0), tmp_path / "out", opset=25)
    assert {weight.stored_as for weight in report.weights} == {"int2"} and report.compared.largest_error < 1e-4


@pytest.mark.process
@pytest.mark.parametrize("name", sorted(TINY))
def test_every_architecture(name, tmp_path):
    model = TINY[name]()
    report = gz.export(model, tmp_path / "full")
    assert report.compared.largest_error < 1e-4
    gz.quantize_(model, bits=4)
    assert gz.export(model, tmp_path / "packed").compared.largest_error < 1e-4


# docs/export.md, Limits
REFUSED = ("FluxTransformer2DModel", "flux, filling", "flux, no guidance", "wan, first and last frame")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({**FAMILIES, **CONDITIONS}.keys() - set(REFUSED)))
def test_every_diffusion_model(name, tmp_path):
    model = {**FAMILIES, **CONDITIONS}[name]()
    gz.quantize_(model, bits=4)
    assert gz.export(model, tmp_path / "out").compared.largest_error < 1e-4


@pytest.mark.process
@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("name", ("stylegan2", "biggan", "ddpm"))
def test_bytes_of_bundled_models(name, bits, tmp_path):
    model, most = gz.load_model(f"{name}-fashion-mnist"), 1.08 if (name, bits) == ("ddpm", 4) else 1.05
    gz.quantize_(model, bits=bits)
    model.save_pretrained(tmp_path / "packed")
    report = gz.export(model, tmp_path / "out")
    saved = (tmp_path / "packed" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert report.bytes == (tmp_path / "out" / "model.onnx").stat().st_size <= most * saved


@pytest.mark.process
def test_pruned_refined_and_half_precision_models_which_stay_as_they_are(tmp_path):
    model = tiny_generator()
    gz.prune_(model, gz.PruneConfig(ratio=0.5))
    gz.refine_(model)
    gz.quantize_(model, bits=8)
    before = state_of(model.train())
    assert gz.export(model, tmp_path / "pruned").compared.largest_error < 1e-4
    assert model.training and not changed(before, model)
    half = tiny_unet().half()
    gz.export(half, tmp_path / "half")
    assert tensors(tmp_path / "half")["conv_in.weight"][0] == "FLOAT16"
    brain = tiny_stylegan3().bfloat16()
    gz.export(brain, tmp_path / "brain")
    assert ("BFLOAT16", (4, 8)) in tensors(tmp_path / "brain").values()


def executed(folder, tmp_path):
    """Operator -> count, of the graph as ONNX Runtime executes it."""
    Session(folder / "model.onnx", integer=True, optimized=tmp_path / "optimized.onnx")
    return collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.process
@pytest.mark.parametrize("bits", (4, 8))
def test_a_unet_with_integer_activations(bits, tmp_path):
    model = gz.load_model("ddpm-fashion-mnist")
    gz.quantize_(model, bits=bits, activations="int8")
    report = gz.export(model, tmp_path / "out")
    assert report.compared.sqnr_db > exporter.SQNR_DB
    used = executed(tmp_path / "out", tmp_path)
    rounded = [model.get_submodule(name) for name in report.rounded]
    convolutions = sum(isinstance(each, torch.nn.Conv2d) for each in rounded)
    assert used["QLinearConv"] >= convolutions - 1 > 10  # with weights of 4 bits one is left in floating point
    assert used["MatMulIntegerToFloat"] == sum(isinstance(each, torch.nn.Linear) for each in rounded) > 0
    exported = gz.OnnxUNet2DModel.from_pretrained(tmp_path / "out")
    sample = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        ours, theirs = model(sample, 800).sample, exported(sample, 800).sample
    assert 10 * torch.log10(ours.square().sum() / (ours - theirs).square().sum()) > exporter.SQNR_DB


@pytest.mark.process
@pytest.mark.parametrize("bits", (4, 7))
def test_a_stylegan_with_integer_activations_and_its_doubling_convolutions(bits, tmp_path):
    model = tiny_generator()
    gz.quantize_(model, bits=bits, activations="int8", headroom=0.0)
    report = gz.export(model, tmp_path / "out")
    used = executed(tmp_path / "out", tmp_path)
    doubling = sum(name.endswith("conv0") for name in report.rounded)
    assert used["QLinearConv"] == len(report.rounded) + 3 * doubling and doubling == 2
    assert report.compared.sqnr_db > exporter.SQNR_DB


@pytest.mark.process
def test_in_floating_point_where_the_model_computes_so(tmp_path):
    model = tiny_unet()
    gz.quantize_(model, bits=4, activations="int8")
    gz.set_compute_(model, "packed")
    report = gz.export(model, tmp_path / "out")
    assert not report.rounded and report.compared.largest_error < 1e-4


@pytest.mark.process
def test_integers_that_differ_are_refused(tmp_path, monkeypatch):
    model = tiny_unet()
    gz.quantize_(model, bits=8, activations="int8")
    monkeypatch.setattr(exporter, "SQNR_DB", 90.0)
    with pytest.raises(ValueError, match=r"differs from torch to -?\d+\.\d dB; allowed are 90 and more. Nothing"):
        gz.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_parts_of_a_pipeline(tmp_path):
    from ..tiny_pipelines import stable_diffusion

    pipe = stable_diffusion()
    gz.quantize_(pipe, bits=8, components=["unet", "vae"])
    found = export_parts(pipe, tmp_path / "out", ["unet", "vae"], checks=2)
    assert list(found) == ["unet", "vae_decoder", "vae_encoder"]
    assert found["unet"].inputs["encoder_hidden_states"][:2] == ("batch", "tokens")
    decoder = OnnxModel.from_pretrained(tmp_path / "out" / "vae_decoder")
    channels, side = pipe.vae.config.latent_channels, found["vae_decoder"].inputs["latent_sample"][2]
    latents = torch.randn(3, channels, side, side)
    with torch.no_grad():
        expected = pipe.vae.decode(latents).sample
    torch.testing.assert_close(decoder(latent_sample=latents)[0], expected, atol=1e-4, rtol=0)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.process
def test_operators_that_cannot_be_exported_are_named_with_their_layer(tmp_path):
    model = tiny_biggan()
    model.output_layer[1] = Bessel()
    with pytest.raises(ValueError, match=r"bessel_j0.* in the layer output_layer\.1 of the BigGANGenerator"):
        gz.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    store = exporter.store_weights_

    def off_by_a_little(graph, builder, tensors, packed):
        return store(graph, builder, {name: tensor * 1.01 for name, tensor in tensors.items()}, packed)

    monkeypatch.setattr(exporter, "store_weights_", off_by_a_little)
    with pytest.raises(ValueError, match=r"differs from torch by \d.*allowed is 0.0001. Nothing was written"):
        gz.export(tiny_biggan(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 18}, "opset is 18; allowed are 21, which brought 4-bit integers, to 25"),
        ({"format": "tflite"}, "format is 'tflite'; allowed are onnx"),
        ({"noise": "some"}, "noise is 'some'; allowed are input, const, none"),
        ({"class_label": 3}, "class_label is 3; the StyleGAN2Generator has 3 classes"),
        ({"checks": 0}, "checks is 0; allowed are 1 and more"),
    ],
)
def test_wrong_options(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        gz.export(tiny_generator(), tmp_path / "out", **options)


def test_options_that_a_model_has_no_use_for():
    for make, option in ((tiny_biggan, {"truncation_psi": 0.5}), (tiny_stylegan3, {"noise": "const"})):
        with pytest.raises(ValueError, match="leave it out"):
            interface.interface_of(make(), **{"truncation_psi": None, "class_label": None, "noise": None} | option)
    found = interface.interface_of(TINY["biggan_deep"](), truncation_psi=None, class_label=None, noise=None)
    assert found.settings["truncation_psi"] == 1


def test_what_is_no_model_and_a_folder_that_is_not_empty(tmp_path):
    with pytest.raises(TypeError, match="is a name"):
        gz.export("stylegan2-fashion-mnist", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        gz.export(tiny_generator(), tmp_path)


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'onnxruntime, which is not installed: pip install "hf_ganzip\[export\]"'):
        gz.export(tiny_generator(), tmp_path / "out")


@pytest.mark.process
def test_the_command(done, packed, tmp_path):
    out = done("export", packed, tmp_path / "out", "--json", "--checks", "1")
    assert json.loads(out)["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size


def test_errors_of_the_command(call, folder, tmp_path):
    for options, said in ((["--opset", "18"], "--opset is 18"), (["--cdn"], "the export is no page; leave out --cdn")):
        code, _, err = call("export", folder, tmp_path / "out", *options)
        assert code == 1 and err.startswith("hf-ganzip: ") and said in err
