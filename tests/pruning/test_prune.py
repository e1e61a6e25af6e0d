# SPDX-License-Identifier: Apache-2.0
"""Pruned models: the papers' sizes of generators, exact copies of what stays, options, saved form, refusals."""

import json
import math

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, prune_
from hf_ganzip.pruning.channels import keep_after_removing, keep_at_least_three
from hf_ganzip.pruning.macs import count_macs
from hf_ganzip.pruning.rules import rule_of

from ..conftest import TINY, changed, randomized, refused, reopened, run, state_of, tiny_generator
from .conftest import ALL, GENERATORS, UNETS, KeepFirst, halved


class TestSizes:
    @pytest.mark.parametrize(
        "preset, ratio, parameters",
        [
            ("ffhq-256-base", 0.7, 5_573_364),
            ("ffhq-256-base", 0.9, 2_798_888),
            ("ffhq-256-base", 0.5, 10_206_434),
            ("ffhq-256-small", 0.7, 4_959_947),
            ("ffhq-256-small", 0.9, 2_685_074),
            ("ffhq-256-small", 0.5, 8_724_994),
            ("ffhq-256-t", 0, 23_320_443),
            ("ffhq-256-t", 0.7, 3_179_876),
            ("ffhq-256-t", 0.9, 1_016_989),
        ],
    )
    def test_of_the_papers(self, preset, ratio, parameters):
        cls = gz.StyleGAN3Generator if preset == "ffhq-256-t" else gz.StyleGAN2Generator
        with torch.device("meta"):
            model = cls.from_preset(preset)
            rule = rule_of(model)
            counts = {channels.name: rule.keep(channels.width, ratio) for channels in rule.sets(model)}
            options = {key: value for key, value in model.config.items() if not key.startswith("_")}
            assert cls(**options | rule.config(model, counts)).num_parameters() == parameters

    def test_kept_widths_of_both_rules(self):
        assert [keep_after_removing(512, p) for p in (0.3, 0.5, 0.7, 0.9)] == [359, 256, 154, 52]
        assert [keep_at_least_three(c, 0.7) for c in (512, 362, 5)] == [153, 108, 3]


@pytest.mark.parametrize("name", [name for name in sorted(GENERATORS) if "biggan" not in name])
def test_zeroed_channels_can_go_without_a_trace(name):
    """Channels that neither write nor read anything change nothing, once gains are compensated."""
    model = randomized(GENERATORS[name]())
    sets = rule_of(model).sets(model)
    with torch.no_grad():
        for channels in sets:
            half = channels.width - int(channels.width * 0.5)
            for reader in {s.tensor for s in channels.slices if s.axis == 1 and s.tensor.endswith("weight")}:
                weight = model.state_dict()[reader]
                if weight.shape[1] == channels.width:
                    weight[:, half:] = 0
    expected = run(model)
    prune_(model, PruneConfig(KeepFirst(), 0.5, compensate_gain=True))
    torch.testing.assert_close(run(model), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(ALL))
class TestEveryModel:
    def test_pruned_tensors_are_dense_ones_at_the_kept_indices(self, name):
        model, report, dense, sets = halved(name)
        kept = {each.name: torch.tensor(each.kept) for each in report.sets}
        names, expected = rule_of(dense).rename(dense, model), {}
        for key, value in dense.state_dict().items():
            for axis in range(value.ndim):
                parts = [(c, p) for c in sets for p in c.slices if p.tensor == key and p.axis == axis]
                rows = [part.rows(kept[channels.name]) for channels, part in parts]
                if rows:
                    value = value.index_select(axis, torch.cat(rows).sort().values)
            expected[names.get(key, key)] = value
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        assert report.parameters_after == model.num_parameters()
        assert report.parameters_after < report.parameters_before * (0.5 if name in UNETS else 1)

    @pytest.mark.processor
    def test_saved_refined_and_quantized(self, name, tmp_path):
        model = randomized(ALL[name]())
        prune_(model, PruneConfig("random", 0.4))
        restored = reopened(model, tmp_path / "pruned")
        assert torch.equal(run(restored), run(model))
        assert recorded_steps(restored)[0]["options"]["kept"]
        for each in (restored, model):  # saving takes nothing from what is done afterwards
            gz.refine_(each, gz.RefineConfig(progress=False))
            gz.quantize_(each, bits=4)
            expected, small = run(each), reopened(each, tmp_path / "small")
            assert torch.equal(run(small), expected) and small.is_quantized
            assert [step["name"] for step in recorded_steps(small)] == ["prune", "refine", "quantize"]
        gz.dequantize_(small)
        assert torch.equal(run(small), expected)
        assert torch.equal(run(reopened(small, tmp_path / "dense")), expected)

    def test_ratio_zero_is_the_identity_and_says_so(self, name):
        model = ALL[name]()
        expected, before = run(model), state_of(model)
        report = prune_(model, PruneConfig("random", 0.0))
        assert torch.equal(run(model), expected) and not changed(before, model)
        assert "nothing was removed" in str(report) and report.macs_before == report.macs_after
        assert model.config.get("quantization_config") is None


class TestOptions:
    @pytest.mark.parametrize(
        "last, options",
        [(8, {"ratio": 0.5, "ratios": {"synthesis.b16.*": 0.0}}), (16, {"ratio": 0.6, "multiple_of": 4})],
    )
    def test_ratios_of_some_sets_and_multiples(self, last, options):
        model = tiny_generator(channels=(16, 16, last))
        prune_(model, PruneConfig("random", **options))
        assert model.config.channels == (8, 8, 8)

    @pytest.mark.parametrize("option", ["max_params", "max_macs"])
    @pytest.mark.parametrize("make, part", [(lambda: tiny_generator(channels=(64, 64, 32)), 4), (TINY["unet"], 5)])
    def test_limits(self, make, part, option):
        model = make()
        dense = model.num_parameters() if option == "max_params" else count_macs(model)
        with refused(model, "cannot be reached; the least are"):
            prune_(model, PruneConfig("random", **{option: 10}))
        report = prune_(model, PruneConfig("random", **{option: dense // 2}))
        after = report.parameters_after if option == "max_params" else report.macs_after
        assert dense // part < after <= dense // 2
        assert report.macs_after == count_macs(model)

    def test_mapping_only_and_fresh_weights(self):
        model = randomized(tiny_generator())
        mapping, weight = state_of(model.mapping), model.synthesis.b8.conv0.weight[:8, :8].clone()
        prune_(model, PruneConfig(KeepFirst(), 0.5, inherit="mapping"))
        assert not changed(mapping, model.mapping)
        assert not torch.equal(model.synthesis.b8.conv0.weight, weight)
        assert model.synthesis.b8.conv0.affine.bias.eq(1).all() and model.synthesis.b8.conv0.bias.eq(0).all()

    @pytest.mark.parametrize("keep", [False, True])
    def test_he_initialization(self, keep):
        model = randomized(tiny_generator(channels=(64, 64, 32)))
        prune_(model, PruneConfig(KeepFirst(), 0.5, init="he", keep_affine_bias=keep))
        conv = model.synthesis.b8.conv0
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
        assert conv.bias.eq(0).all() and bool(conv.affine.bias.eq(0).all()) != keep

    @pytest.mark.parametrize("make, options", [(tiny_generator, {}), (TINY["unet"], {"init": "he"})])
    def test_the_generator_of_random_numbers_is_left_alone(self, make, options):
        model, state = make(), torch.random.get_rng_state()
        prune_(model, PruneConfig("random", 0.5, **options))
        assert torch.equal(torch.random.get_rng_state(), state)

    @pytest.mark.parametrize("name", ["stylegan2", "stylegan3", "biggan"])
    def test_frozen_parameters_stay_frozen(self, name):
        model = GENERATORS[name]()
        for index, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(index % 3 != 0)
        frozen = [parameter.requires_grad for parameter in model.parameters()]
        prune_(model, PruneConfig("random", 0.5))
        assert [parameter.requires_grad for parameter in model.parameters()] == frozen


class TestBadInput:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"ratio": 1.0}, "ratio is 1.0; allowed"),
            ({"ratio": -0.1}, "ratio is -0.1; allowed"),
            ({"ratios": {"x": 2}}, "x is 2; allowed"),
            ({"multiple_of": 0}, "multiple_of is 0; allowed"),
            ({"init": "x"}, "init 'x'; allowed"),
            ({"group_rule": "x"}, "group_rule is 'x'; allowed"),
            ({"criterion": "best"}, "Unknown criterion 'best'"),
            ({"max_params": 1, "max_macs": 1}, "allowed is one of them"),
            ({"max_params": 0}, "max_params is 0; allowed are 1 and more"),
            ({"max_macs": -1}, "max_macs is -1; allowed are 1 and more"),
            ({"criterion": KeepFirst(), "criterion_options": {"x": 1}}, "set them in the criterion object"),
            ({"keep_affine_bias": True}, "keep_affine_bias belongs to init"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            PruneConfig(**options)

    def test_models(self):
        with pytest.raises(ValueError, match="no rule for StyleGANGenerator; .*Add one"):
            prune_(TINY["stylegan"]())
        with pytest.raises(ValueError, match="attention"):
            prune_(TINY["biggan"]())
        model = tiny_generator()
        with pytest.raises(ValueError, match="'x.*' match no channels"):
            prune_(model, PruneConfig("random", ratios={"x.*": 0.5}))
        gz.quantize_(model)
        with pytest.raises(ValueError, match="is quantized"):
            prune_(model)

    def test_broken_scores_change_nothing(self):
        model = tiny_generator()
        config = dict(model.config)
        for bad in (torch.nan, torch.inf):
            broken = PruneConfig(lambda m, sets, bad=bad: {each.name: torch.full((each.width,), bad) for each in sets})
            with refused(model, "not finite; nothing was changed"):
                prune_(model, broken)
        with refused(model, "gives no"):
            prune_(model, PruneConfig(lambda m, sets: {}))
        assert dict(model.config) == config

    @pytest.mark.parametrize("make, module", [(tiny_generator, "synthesis.b8.conv0"), (TINY["unet"], "conv_in")])
    def test_an_output_that_is_not_finite_names_the_module(self, make, module):
        model = make()
        with torch.no_grad():
            model.get_submodule(module).bias[:] = torch.inf
        with refused(model, f"{module} is not finite after pruning"):
            prune_(model, PruneConfig("random", 0.5))
        assert model.config.get("quantization_config") is None and not recorded_steps(model)


def test_report_and_record_are_json_and_a_function_is_recorded_by_its_name():
    def first(model, sets):
        return KeepFirst()(model, sets)

    model = tiny_generator()
    report = prune_(model, PruneConfig(first, 0.5))
    json.dumps(report.to_dict())
    assert "synthesis.b8.conv0" in str(report) and "by first" in str(report) and report.criterion == "first"
    (step,) = recorded_steps(model)
    json.dumps(step)
    assert step["options"]["criterion"] == "first"
    assert step["options"]["kept"]["synthesis.b8.conv0"] == list(range(8))
