# SPDX-License-Identifier: Apache-2.0
"""Exports of models with activations of 8 bits: integer kernels are used, and compute what our layers compute."""

from collections import Counter

import onnx
import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.exporting import exporter
from hf_ganzip.exporting.libraries import Session

from ..conftest import tiny_generator, tiny_unet


def executed(folder, tmp_path):
    """Operator -> count, of the graph as ONNX Runtime executes it."""
    Session(folder / "model.onnx", integer=True, optimized=tmp_path / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.process
@pytest.mark.parametrize("bits", (4, 8))
def test_a_unet(bits, tmp_path):
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
def test_a_stylegan_and_its_doubling_convolutions(bits, tmp_path):
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
