# SPDX-License-Identifier: Apache-2.0
"""Whole models: which tensors are refined, the bias rule, the record, refusals."""

import json

import pytest
import torch
from torch import nn

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.evaluation.plotting import save_spectra_plot
from hf_ganzip.refine import SCALINGS, RefineConfig, Scaling, refine_, scale_singular_values

from ..conftest import TINY, changed, randomized, run, state_of, tiny_generator, tiny_stylegan3, tiny_unet


QUIET = {"progress": False}


def halved(norm, largest):
    return 0.5


def refined(make, **options):
    """A model, its tensors before it was refined, and the report."""
    model = randomized(make())
    before = state_of(model)
    return model, before, refine_(model, RefineConfig(**options, **QUIET))


class TestStyleGAN2:
    def test_weights_biases_and_affine_layers_of_the_synthesis_network(self):
        model, before, _ = refined(tiny_generator)
        synthesis = {name for name in before if name.startswith("synthesis.") and "noise" not in name}
        expected = {name for name in synthesis if name.endswith(("weight", "bias"))}
        assert changed(before, model) == expected and any("affine" in name for name in expected)
        name = "synthesis.b8.conv0.weight"
        assert torch.equal(model.state_dict()[name], scale_singular_values(before[name]))

    @pytest.mark.parametrize("options, stays", [({"to_rgb": False}, "torgb"), ({"skip": ("*.affine.*",)}, "affine")])
    def test_what_stays(self, options, stays):
        model, before, _ = refined(tiny_generator, **options)
        assert not any(stays in name for name in changed(before, model))

    def test_bias_rule(self):
        model, before, _ = refined(tiny_generator)
        for name in ("synthesis.b8.conv0.bias", "synthesis.b8.conv0.affine.bias"):
            bias, new = before[name].double(), model.state_dict()[name].double()
            torch.testing.assert_close(new, bias / (bias.norm() + 1e-8).sqrt(), rtol=1e-5, atol=1e-7)


def test_stylegan3_refines_its_input_and_image_layers():
    model, before, _ = refined(tiny_stylegan3)
    found = changed(before, model)
    last = model.synthesis.layer_names[-1]
    assert {"synthesis.input.weight", "synthesis.input.affine.bias", f"synthesis.{last}.weight"} <= found
    assert all(name.startswith("synthesis.") for name in found)
    untouched = ("freqs", "phases", "transform", "filter", "magnitude_ema")
    assert not any(name.endswith(untouched) for name in found)


class TestDiffusion:
    def test_norms_are_reset_and_everything_else_is_refined(self):
        model, before, report = refined(tiny_unet)
        for name, module in model.named_modules():
            if isinstance(module, nn.GroupNorm):
                assert module.weight.eq(1).all() and module.bias.eq(0).all() and name in report.norms
        norms = {name for name in before if any(name.startswith(f"{norm}.") for norm in report.norms)}
        assert changed(before, model) == set(before)
        assert {tensor.name for tensor in report.tensors} == set(before) - norms

    def test_norms_can_stay(self):
        model, before, report = refined(tiny_unet, reset_norms=False)
        assert not report.norms and not any("norm" in name for name in changed(before, model))


class TestReport:
    def test_condition_numbers_become_their_square_roots(self, tmp_path):
        _, _, report = refined(tiny_generator)
        assert len(report.weights) > 10
        for weight in report.weights:
            assert weight.condition_after == pytest.approx(weight.condition_before**0.5, rel=1e-6)
        json.dumps(report.to_dict())
        assert "condition after" in str(report) and "refined by sqrt" in str(report)
        save_spectra_plot(report, tmp_path / "spectra.png")
        assert (tmp_path / "spectra.png").stat().st_size > 10_000

    @pytest.mark.parametrize("name", sorted(TINY))
    def test_every_architecture_refines_and_still_runs(self, name):
        model = TINY[name]()
        report = refine_(model, RefineConfig("log1p", **QUIET))
        assert report.weights and torch.isfinite(run(model)).all()

    def test_own_scaling(self):
        layer = nn.Linear(4, 4)
        half = Scaling(lambda s: s / 2, lambda norm, largest: 0.5)
        before = state_of(layer)
        refine_(layer, RefineConfig(half, **QUIET))
        torch.testing.assert_close(layer.weight.detach(), before["weight"] / 2)
        torch.testing.assert_close(layer.bias.detach(), before["bias"] / 2)


class TestRecord:
    def test_own_scalings_have_stable_names(self):
        model = tiny_generator()
        report = refine_(model, RefineConfig(Scaling(torch.sqrt, halved), **QUIET))
        (step,) = recorded_steps(model)
        assert step["options"]["scaling"] == report.scaling == "Scaling(sqrt, halved)"
        assert RefineConfig(SCALINGS["log1p"]).to_dict()["scaling"] == "log1p"

    def test_refining_twice_is_refused_also_after_saving(self, tmp_path):
        model = tiny_generator()
        refine_(model, RefineConfig(**QUIET))
        with pytest.raises(ValueError, match="refined before"):
            refine_(model, RefineConfig(**QUIET))
        model.save_pretrained(tmp_path)
        restored = gz.load_model(tmp_path)
        assert [step["name"] for step in recorded_steps(restored)] == ["refine"]
        with pytest.raises(ValueError, match="refined before"):
            refine_(restored, RefineConfig(**QUIET))
        refine_(restored, RefineConfig(again=True, **QUIET))
        assert len(recorded_steps(restored)) == 2


class TestBadInput:
    def test_nothing_changes_when_a_weight_is_broken(self):
        model = tiny_generator()
        with torch.no_grad():
            model.synthesis.b16.conv1.weight[0, 0, 0, 0] = torch.nan
        before = state_of(model)
        with pytest.raises(ValueError, match="synthesis.b16.conv1.weight: .*NaN.*Nothing was changed"):
            refine_(model, RefineConfig(**QUIET))
        assert not changed(before, model) and not recorded_steps(model)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"scaling": "cube"}, "scaling"),
            ({"skip": "*affine*"}, "takes a list of patterns"),
            ({"rtol": 2}, "rtol is 2"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            RefineConfig(**options)

    def test_nothing_to_refine_and_quantized_models(self):
        with pytest.raises(ValueError, match="'x.*' match no tensor"):
            refine_(tiny_generator(), RefineConfig(skip=("x.*",), **QUIET))
        with pytest.raises(ValueError, match="nothing to refine in ReLU"):
            refine_(nn.ReLU(), RefineConfig(**QUIET))
        quantized = tiny_generator()
        gz.quantize_(quantized)
        with pytest.raises(ValueError, match="is quantized"):
            refine_(quantized)
