# SPDX-License-Identifier: Apache-2.0
"""Large tensors: a part at a time gives what all at once gives; a search that looks at a sample is nearly as good."""

import math

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.quantization import METHODS, chunks
from hf_ganzip.quantization.chunks import CHUNK, by_rows, row_chunks
from hf_ganzip.quantization.grid import _MANY, QuantizedRows, nearest_codes
from hf_ganzip.quantization.methods import codebook, mse_clip


SHAPES = [(1, CHUNK - 1), (1, CHUNK), (1, CHUNK + 1), (2, CHUNK), (3, CHUNK // 2), (5, CHUNK // 3 + 1)]
SHAPES += [(CHUNK - 1, 1), (CHUNK, 1), (CHUNK + 1, 1), (CHUNK // 64 + 1, 64), (3, 7), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parts_are_whole_rows_and_together_everything(shape):
    rows, other = torch.randn(shape), torch.randn(shape[0], 1)
    parts = list(row_chunks(rows))
    assert torch.equal(torch.cat(parts), rows)
    assert all(part.numel() <= CHUNK or len(part) == 1 for part in parts)
    assert torch.equal(by_rows(torch.mul, rows, other), rows * other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["levels", "levels and offset", "few levels", "many levels"])
def test_codes_are_those_of_the_nearest_levels(shape, kind):
    rows, scale = torch.randn(shape), torch.rand(shape[0], 1) + 0.1
    bits = {"few levels": 3, "many levels": 6}.get(kind, 4)
    levels = {"level_offset": 0.5} if bits == 4 else {"codebook": torch.randn(2**bits).half()}
    levels |= {"offset": torch.randn(shape[0], 1)} if "offset" in kind else {}
    codes = nearest_codes(rows, scale, bits, **levels)
    if "codebook" in levels and rows.numel() >= _MANY:
        rows = (rows / scale).half() * scale
    found = (QuantizedRows(codes, scale, **levels).values() - rows).abs()
    half = 2 ** (bits - 1)
    for code in range(-half, half):
        other = QuantizedRows(torch.full_like(codes, code), scale, **levels).values()
        assert ((other - rows).abs() >= found - 1e-5 * rows.abs().clamp_min(1)).all()


def test_one_scale_serves_all_rows_of_all_parts():
    rows = torch.randn(3, CHUNK // 2)
    expected = nearest_codes(rows, torch.full((3, 1), 0.3), 4)
    for scale in (torch.tensor(0.3), torch.tensor([[0.3]])):
        assert torch.equal(nearest_codes(rows, scale, 4), expected)


@pytest.mark.parametrize("shape", [(3, CHUNK // 2 + 1), (2, CHUNK), (CHUNK // 64 + 1, 64), (1, CHUNK + 1)], ids=str)
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"gptq", "latent_distill", "outlier_splitting"}))
def test_methods_give_the_same_in_parts_and_at_once(name, shape, monkeypatch):
    rows = torch.randn(shape) ** 3
    parts = METHODS[name]()(rows, 4)
    monkeypatch.setattr(row_chunks, "__defaults__", (rows.numel(),))
    monkeypatch.setattr(chunks, "CHUNK", rows.numel())
    once = METHODS[name]()(rows, 4)
    assert torch.equal(parts.codes, once.codes) and torch.equal(parts.scale, once.scale)
    assert torch.equal(parts.values(), once.values())


@pytest.mark.parametrize("weights", [CHUNK - 64, CHUNK, CHUNK + 64, 3 * CHUNK + 64])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_error_of_a_large_layer_is_reported_as_measured(weights, granularity):
    model = nn.Sequential(nn.Linear(64, weights // 64))
    before = model[0].weight.detach().double().clone()
    report = gz.quantize_(model, bits=4, granularity=granularity, headroom=0)
    noise = (model[0].weight.double() - before).square().sum()
    assert report.layers[0].sqnr_db == pytest.approx(10 * math.log10(before.square().sum() / noise), abs=1e-3)


def heavy(generator, shape):
    """Student's t with 3 degrees of freedom, and outliers of 30 in every row."""
    normal, others = torch.randn(shape, generator=generator), torch.randn(3, *shape, generator=generator)
    rows = normal / (others.square().sum(0) / 3).sqrt()
    at = torch.randint(shape[1], (shape[0], 2), generator=generator)
    return rows.scatter(1, at, 30 * torch.randn(shape[0], 2, generator=generator).sign())


def sqnr(rows, found):
    return 10 * math.log10(rows.square().sum() / (rows - found.values()).square().sum())


DRAWS = {
    "normal": lambda g, shape: torch.randn(shape, generator=g),
    "heavy": heavy,
    "half zeros": lambda g, shape: torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) > 0.5),
    "on a grid": lambda g, shape: torch.randint(-3, 4, shape, generator=g) * torch.rand(shape[0], 1, generator=g),
}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("draw", DRAWS)
def test_the_least_expected_error_is_nearly_the_least(draw, bits, monkeypatch):
    """In rows as short as they may be, too; where weights do not round uniformly, errors are measured."""
    for shape in ((1024, 1024), (1024, 512)):
        rows = DRAWS[draw](torch.Generator().manual_seed(0), shape)
        expected = sqnr(rows, METHODS["mse_clip"]()(rows, bits))
        with monkeypatch.context() as patch:
            patch.setattr(mse_clip, "_LARGE", math.inf)
            measured = sqnr(rows, METHODS["mse_clip"]()(rows, bits))
        assert expected > measured - 0.15
        if draw != "heavy":  # whose bits decide
            assert (expected != measured) == (bits > 2 and draw == "normal")


def test_rows_of_smaller_tensors_are_searched_whole(monkeypatch):
    rows = torch.randn(255, 1024)
    found = METHODS["mse_clip"]()(rows, 3)
    monkeypatch.setattr(mse_clip, "_LARGE", math.inf)
    assert torch.equal(found.codes, METHODS["mse_clip"]()(rows, 3).codes)


@pytest.mark.parametrize("bits, most", [(2, 0.02), (3, 0.05), (8, 0.3)])
def test_levels_of_a_sample_lose_little(bits, most, monkeypatch):
    rows = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 1024)[:, None]
    sampled = sqnr(rows, METHODS["codebook"]()(rows, bits))
    monkeypatch.setattr(codebook, "_SAMPLED", rows.numel())
    assert sqnr(rows, METHODS["codebook"]()(rows, bits)) - most < sampled
