# SPDX-License-Identifier: Apache-2.0
"""What holds for every entry of a registry: the line that registers a feature also enrols it here."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ganzip.families import FAMILIES, family_of, sensitive_layers
from hf_ganzip.metrics import METRICS
from hf_ganzip.models import ARCHITECTURES
from hf_ganzip.quantization import METHODS, QuantizeConfig, quantize_, sensitivity
from hf_ganzip.quantization.buffers import pack_codes
from hf_ganzip.quantization.grid import QuantizedRows, fold_channels, nearest_codes
from hf_ganzip.quantization.packing import unpack
from hf_ganzip.quantization.plan import _matches, weighted_modules
from hf_ganzip.quantization.rows import quantize_weight

from .conftest import TINY, run
from .tiny_diffusion import FAMILIES as TINY_DIFFUSION
from .tiny_diffusion import output


BITS = (2, 3, 4, 5, 6, 7, 8)
ROWS = {
    "normal": torch.randn(3, 50, generator=torch.Generator().manual_seed(1)),
    "zero": torch.zeros(2, 9),
    "constant": torch.full((2, 7), 0.3),
    "one element": torch.tensor([[-2.5]]),
    "tiny": torch.full((1, 5), 1e-38) * torch.tensor([1.0, -1, 0.5, 0.2, 0]),
    "huge": torch.tensor([[3e38, -1e38, 0.0, 2e38]]),
    "some zero rows": torch.tensor([[0.0, 0, 0], [1, -1, 0.5]]),
}


QUICK = {  # options that make the calibrated methods fast
    "gptq": {"batches": 2, "batch_size": 2, "progress": False},
    "latent_distill": {
        "steps": 2,
        "batch_size": 2,
        "base": "codebook",
        "scale_learning_rate": 1e-4,
        "progress": False,
    },
}
ROW_METHODS = sorted(set(METHODS) - set(QUICK))  # the others start from one of these


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return METHODS[request.param](**QUICK.get(request.param, {}))


def dequantized(quantized):
    """Rows (R, N) float32 as they are computed with."""
    values = quantized.values()
    return values if quantized.sources is None else fold_channels(values[:, :, None], quantized.sources)[:, :, 0]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_method_codes_and_scales(method, bits, rows):
    before = rows.clone()
    found = method(rows, bits)
    values = dequantized(found)
    assert found.codes.dtype == torch.int8 and values.shape == rows.shape and values.dtype == torch.float32
    assert found.scale.dtype == torch.float32 and found.scale.shape == (len(rows), 1)
    assert torch.isfinite(found.scale).all() and (found.scale > 0).all()
    assert found.codes.min() >= -(2 ** (bits - 1)) and found.codes.max() <= 2 ** (bits - 1) - 1
    assert torch.equal(rows, before), "the input was changed"
    again = method(rows, bits)
    assert torch.equal(found.codes, again.codes) and torch.equal(values, dequantized(again)), "not deterministic"
    zero = (rows == 0).all(dim=1)
    assert (values[zero].abs() < 1e-37).all()
    if found.codebook is None and found.level_offset == 0:
        assert ((values == 0) | (values.sign() == rows.sign())).all(), "a value has the wrong sign"


@pytest.mark.parametrize("bits", BITS)
def test_method_packing_is_exactly_reversible(method, bits):
    codes = method(ROWS["normal"], bits).codes
    unpacked = unpack(pack_codes(codes, bits), bits, codes.numel())
    assert torch.equal(unpacked.to(torch.int16) - 2 ** (bits - 1), codes.flatten().to(torch.int16))


@pytest.mark.parametrize("name", sorted(set(ROW_METHODS) - {"monte_carlo", "outlier_splitting"}))
@pytest.mark.parametrize("bits", BITS)
def test_method_codes_belong_to_the_stored_scale(name, bits):
    """Quantizing the quantized weights on the same levels changes nothing."""
    found = METHODS[name]()(ROWS["normal"], bits, torch.float16)
    assert found.scale.dtype == torch.float16
    levels = {"level_offset": found.level_offset, "codebook": found.codebook}
    again = nearest_codes(found.values(), found.scale.float(), bits, **levels)
    assert torch.equal(QuantizedRows(again, found.scale, **levels).values(), found.values())


@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-10, 10), seed=st.integers(0, 999), bits=st.sampled_from(BITS))
@pytest.mark.parametrize("name", ROW_METHODS)
def test_method_is_scale_equivariant(name, exponent, seed, bits):
    rows = torch.randn(2, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = METHODS[name]()(rows, bits)
    scaled = METHODS[name]()(rows * 2.0**exponent, bits)
    assert torch.equal(found.codes, scaled.codes)
    assert torch.equal(found.scale * 2.0**exponent, scaled.scale)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("name", ROW_METHODS)
def test_method_error_is_reported_as_measured(name, bits, granularity):
    method, layer = METHODS[name](), torch.nn.Conv2d(6, 5, 3)
    config = QuantizeConfig(method=method, bits=bits, granularity=granularity)
    before = layer.weight.detach().clone()
    reported = quantize_weight(layer, config.settings()).sqnr_db
    model = torch.nn.Sequential(layer)
    report = quantize_(model, config)
    noise = (before.double() - model[0].weight.double()).square().sum()
    measured = 10 * torch.log10(before.double().square().sum() / noise)
    assert reported == report.layers[0].sqnr_db == pytest.approx(measured.item(), abs=1e-4)


def round_trips():
    """All methods, numbers of bits and architectures; `make test` takes the quarter that has every pair of two of the
    three.
    """
    for (i, method), (j, bits), (k, name) in itertools.product(
        *map(enumerate, (sorted(METHODS), (2, 3, 4, 8), sorted(TINY)))
    ):
        mark = pytest.mark.process if (i + j + k) % 4 else pytest.mark.processor
        yield pytest.param(method, bits, name, marks=mark, id=f"{method}-{bits}-{name}")


@pytest.mark.parametrize("method, bits, name", list(round_trips()), indirect=["method"])
def test_architecture_survives_a_quantized_round_trip(method, bits, name, tmp_path):
    model = TINY[name]()
    quantize_(model, QuantizeConfig(method=method, bits=bits))
    expected = run(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(type(model).from_pretrained(tmp_path)), expected)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_every_architecture_has_a_tiny_model_and_a_family():
    covered = {type(build()) for build in TINY.values()}
    assert set(ARCHITECTURES.values()) <= covered
    for build in TINY.values():
        assert family_of(build()) is not None


def test_architecture_every_weight_is_seen(tiny_model):
    report = quantize_(tiny_model, QuantizeConfig(bits=4, skip_last_block=False, embeddings=True))
    for layer in report.skipped:
        assert layer.skipped == "one-dimensional weight (norm)", layer


@pytest.mark.processor
def test_architecture_save_and_load_is_bit_exact(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert torch.equal(run(type(tiny_model).from_pretrained(tmp_path)), run(tiny_model))


def test_every_family_has_a_tiny_model():
    assert {family_of(build()) for build in {**TINY, **TINY_DIFFUSION}.values()} == set(FAMILIES.values())


@pytest.mark.parametrize("name", sorted(TINY_DIFFUSION))
class TestFamily:
    """Everything calibrated takes inputs that the model itself provides."""

    @pytest.mark.parametrize("method", sorted(QUICK))
    def test_calibrated_methods(self, name, method, tmp_path):
        model = TINY_DIFFUSION[name]()
        report = quantize_(model, QuantizeConfig(METHODS[method](**QUICK[method]), bits=3, granularity="channel"))
        assert report.quantized and torch.isfinite(output(model)).all()
        model.save_pretrained(tmp_path)
        assert torch.equal(output(type(model).from_pretrained(tmp_path)), output(model))

    def test_bits_by_sensitivity(self, name):
        model = TINY_DIFFUSION[name]()
        report = sensitivity(model, (3, 8), num_samples=2, progress=False)
        dead = [layer.name for layer in report.layers if not layer.errors[3] > layer.errors[8] >= 0]
        # in the last block of Stable Diffusion 3, what text asks for is not used
        assert dead == {"SD3Transformer2DModel": ["transformer_blocks.1.attn.add_q_proj"]}.get(name, [])
        mixed = QuantizeConfig("codebook", overrides=report.allocate(mean_bits=6.5))
        quantized = quantize_(model, mixed)
        assert quantized.bits_per_weight <= 6.5 and {layer.bits for layer in quantized.quantized} == {3, 8}

    def test_half_precision(self, name):
        model = TINY_DIFFUSION[name]().to(torch.bfloat16)
        quantize_(model, QuantizeConfig(METHODS["gptq"](**QUICK["gptq"]), bits=4, granularity="channel"))
        assert output(model).dtype == torch.bfloat16 and torch.isfinite(output(model)).all()

    def test_sensitive_layers_take_other_bits(self, name):
        model = TINY_DIFFUSION[name]()
        patterns = [p for p in sensitive_layers(model) if any(_matches(layer, p) for layer in weighted_modules(model))]
        report = quantize_(model, QuantizeConfig(bits=4, headroom=0, overrides={p: {"bits": 8} for p in patterns}))
        assert {layer.bits for layer in report.quantized} == {4, 8}


METRIC_OPTIONS = {"kernel_distance": {"subset_size": None}}  # its subsets are larger than the toy sets, and random
DISTANCES = {"frechet_distance", "kernel_distance", "monge_distance", "gaussian_kernel_distance"}  # lower is better


@pytest.mark.parametrize("name", sorted(METRICS))
class TestMetric:
    metric_rows = 120

    def sets(self):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.metric_rows, 6, generator=generator), torch.randn(90, 6, generator=generator)

    def measure(self, name, real, generated):
        return METRICS[name](real=real, generated=generated, **METRIC_OPTIONS.get(name, {}))

    def test_order_does_not_matter(self, name):
        real, generated = self.sets()
        flipped = self.measure(name, real.flip(0), generated.flip(0))
        for key, value in self.measure(name, real, generated).items():
            assert flipped[key] == pytest.approx(value, abs=1e-9), key

    def test_arrays_and_tensors_agree(self, name):
        real, generated = self.sets()
        tensors = self.measure(name, real, generated)
        assert self.measure(name, real.numpy(), generated.numpy()) == tensors
        assert all(type(value) in (float, int, bool, str, type(None)) for value in tensors.values())

    def test_mode_collapse_is_worse(self, name):
        real, generated = self.sets()
        collapsed = generated[:5].repeat(18, 1) + 0.01 * generated
        good, bad = (self.measure(name, real, each) for each in (generated, collapsed))
        diversity = ("recall", "coverage", "vendi_score")
        keys = [key for key in good if key in DISTANCES or any(each in key for each in diversity)]
        keys = [key for key in keys if not key.endswith(("_std", "_real"))]
        assert keys
        for key in keys:
            assert (bad[key] > good[key]) if key in DISTANCES else (bad[key] < good[key]), key

    def test_bad_input_is_refused(self, name):
        real, generated = self.sets()
        broken = generated.clone()
        broken[3, 2] = float("nan")
        for wrong in (broken, generated[:1], generated[:, :4], generated[0]):
            with pytest.raises(ValueError, match="generated|dimension|real"):
                self.measure(name, real, wrong)
