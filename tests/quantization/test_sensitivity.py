# SPDX-License-Identifier: Apache-2.0
import copy
import itertools

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.evaluation.plotting import save_sensitivity_plot
from hf_ganzip.families import family_of
from hf_ganzip.quantization.methods.gptq import GPTQ
from hf_ganzip.quantization.methods.latent_distill import LatentDistill
from hf_ganzip.quantization.sensitivity import LayerSensitivity, SensitivityReport

from ..conftest import run, tiny_generator, tiny_unet


BITS = (2, 3, 4, 8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_generator()


@pytest.fixture(scope="module")
def report(model):
    return gz.sensitivity(model, BITS, num_samples=16, progress=False)


def test_every_planned_weight_is_measured_and_the_model_unchanged(model):
    before = run(model)
    report = gz.sensitivity(model, (2, 8), num_samples=4, progress=False)
    assert torch.equal(run(model), before)
    quantized = gz.quantize_(tiny_generator(), gz.QuantizeConfig(bits=4)).quantized
    assert [f"{layer.name}.weight" for layer in report.layers] == [layer.name for layer in quantized]
    assert report.conditions == {"metric": "mse", "method": "codebook", "granularity": "channel", "num_samples": 4}


@pytest.mark.parametrize("method", ["codebook", GPTQ(batches=3, progress=False)])
def test_the_error_is_what_quantizing_only_this_layer_gives(model, method):
    def largest(output, target):
        return (output - target).abs().max()

    options = {"preset": "best", "granularity": "channel", "headroom": 0.0}
    config = gz.QuantizeConfig(method, **options)
    report = gz.sensitivity(model, (3,), largest, config=config, num_samples=2, progress=False)
    assert report.conditions["method"] == (method if method == "codebook" else "gptq")
    (forward,) = itertools.islice(family_of(model).calibration(model, 2, 0), 1)
    name = "synthesis.b8.conv0"
    other = copy.deepcopy(model)
    overrides = {name: {"bits": 3}, "*": {"bits": None}}
    gz.quantize_(other, gz.QuantizeConfig(method, overrides=overrides, **options))
    with torch.no_grad():
        expected = float((forward(other) - forward(model)).abs().max())
    found = {layer.name: layer.errors[3] for layer in report.layers}
    assert found[name] == pytest.approx(expected, rel=1e-4)


def test_what_starts_from_a_method_that_compensates_errors_is_measured_by_it(model, capsys):
    def errors(method):
        report = gz.sensitivity(
            model, (3,), config=gz.QuantizeConfig(method, hadamard=True), num_samples=4, progress=False
        )
        return [layer.errors for layer in report.layers]

    compensated = GPTQ(batches=3, progress=False)
    assert errors(LatentDistill(base=compensated)) == errors(compensated) != errors("mse_clip")
    assert errors(LatentDistill(base="mse_clip")) == errors("mse_clip")
    capsys.readouterr()
    errors(GPTQ(batches=3))  # progress=False of sensitivity goes for the method, too
    assert not capsys.readouterr().err


@pytest.mark.parametrize("mean_bits", [2.9, 4.0, 6.5])
def test_a_model_with_allocated_bits_keeps_the_budget(model, report, mean_bits):
    overrides = report.allocate(mean_bits=mean_bits)
    config = gz.QuantizeConfig("codebook", granularity="channel", overrides=overrides)
    quantized = gz.quantize_(copy.deepcopy(model), config)
    assert quantized.bits_per_weight <= mean_bits
    spent = {layer.name: layer for layer in report.layers}
    sizes = [spent[name].bytes[change["bits"]] for name, change in overrides.items()]
    assert sum(layer.bytes_after for layer in quantized.quantized) == sum(sizes)


def test_an_allocation_is_close_to_the_best_of_all_and_beats_equal_bits():
    generator = torch.Generator().manual_seed(1)
    layers = []
    for i in range(5):
        weights = int(torch.randint(50, 400, (1,), generator=generator))
        start = float(torch.rand(1, generator=generator))
        errors, sizes = {b: start * 4.0**-b for b in BITS}, {b: weights * b // 8 + 4 for b in BITS}
        layers.append(LayerSensitivity(f"l{i}", weights, errors, sizes))
    report = SensitivityReport(tuple(layers), {})
    for equal in BITS:
        budget = sum(layer.bytes[equal] for layer in layers)
        chosen = report.allocate(target_bytes=budget)
        error = sum(layer.errors[chosen[layer.name]["bits"]] for layer in layers)
        least = min(
            sum(layer.errors[b] for layer, b in zip(layers, bits))
            for bits in itertools.product(BITS, repeat=5)
            if sum(layer.bytes[b] for layer, b in zip(layers, bits)) <= budget
        )
        assert sum(layer.bytes[chosen[layer.name]["bits"]] for layer in layers) <= budget
        assert error <= min(1.6 * least, sum(layer.errors[equal] for layer in layers))


def test_impossible_budgets_are_refused(report):
    with pytest.raises(ValueError, match="the fewest bits take .* more than the budget"):
        report.allocate(mean_bits=1.5)
    for budget in ({}, {"mean_bits": 4, "target_bytes": 1000}):
        with pytest.raises(ValueError, match="takes one budget"):
            report.allocate(**budget)


def test_exclude_names_what_hurts(report):
    worst = max(report.layers, key=lambda layer: layer.errors[2])
    assert report.exclude(2, 0.999 * worst.errors[2]) == [worst.name]
    assert report.exclude(2, worst.errors[2]) == []


def test_picture_and_text(report, tmp_path):
    save_sensitivity_plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    assert str(report).splitlines()[1].startswith(max(report.layers, key=lambda layer: layer.errors[2]).name)


def test_wrong_weights_counts_metrics_and_bits_are_refused(report):
    broken = tiny_generator()
    with torch.no_grad():
        broken.mapping.fc0.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="sensitivity: weights with NaN or infinity: mapping.fc0"):
        gz.sensitivity(broken, (2,), num_samples=2, progress=False)
    for wrong, message in (({"num_samples": 0}, "num_samples is 0; allowed"), ({"metric": "psnr"}, "'mse' or a")):
        with pytest.raises(ValueError, match=message):
            gz.sensitivity(tiny_generator(), (2,), **wrong, progress=False)
    with pytest.raises(ValueError, match="6 bits were not measured; allowed are 2, 3, 4, 8"):
        report.exclude(6, 0.1)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return tiny_unet()


@pytest.fixture(scope="module")
def rounded(unet):
    return gz.sensitivity(unet, (8,), num_samples=4, activations=True, progress=False)


class TestActivations:
    def test_the_error_is_what_rounding_the_inputs_of_only_this_layer_gives(self, unet, rounded):
        layer = max(rounded.layers, key=lambda each: each.activation_error or 0)
        alone = copy.deepcopy(unet)
        gz.quantize_(alone, bits=8, activations="int8", compute="dequantized")
        plain = copy.deepcopy(alone)
        gz.set_compute_(alone.get_submodule(layer.name), "int8")
        (forward,) = itertools.islice(family_of(unet).calibration(unet, 4, 0), 1)
        with torch.no_grad():
            target = forward(plain)
            error = (forward(alone) - target).square().mean() / target.square().mean()
        assert layer.activation_error == pytest.approx(float(error), rel=1e-3)

    def test_layers_that_stay_in_floating_point_anyway_are_not_measured(self, unet, rounded):
        quantized = gz.quantize_(copy.deepcopy(unet), bits=8, activations="int8")
        asked = {each.name.removesuffix(".weight") for each in quantized.layers if each.activations}
        assert {each.name for each in rounded.layers if each.activation_error is not None} == asked
        assert "activations" in str(rounded).splitlines()[0]

    def test_the_fewest_layers_that_cause_a_share(self, unet, rounded):
        errors = {each.name: each.activation_error for each in rounded.layers if each.activation_error is not None}
        assert rounded.float_activations(0) == {} and rounded.float_activations(1).keys() == errors.keys()
        chosen = rounded.float_activations(0.5)
        assert sum(errors[name] for name in chosen) >= 0.5 * sum(errors.values())
        least = min(chosen, key=errors.__getitem__)
        assert sum(errors[name] for name in chosen if name != least) < 0.5 * sum(errors.values())
        assert min(errors[name] for name in chosen) >= max(errors[name] for name in errors.keys() - chosen.keys())
        quantized = gz.quantize_(copy.deepcopy(unet), bits=8, activations="int8", overrides=chosen)
        by_name = {each.name.removesuffix(".weight"): each.activations for each in quantized.layers}
        assert all(by_name[name] is None for name in chosen) and any(by_name.values())

    def test_what_was_not_measured_is_refused(self, report, rounded):
        with pytest.raises(ValueError, match="activations=True"):
            report.float_activations()
        with pytest.raises(ValueError, match="allowed are 0 to 1"):
            rounded.float_activations(2)
