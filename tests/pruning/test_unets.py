# SPDX-License-Identifier: Apache-2.0
"""Pruned diffusion UNets: the papers' sizes, which channels go, the saved form of every kind, refusals."""

import copy
import dataclasses
import functools
import json

import pytest
import torch
from diffusers import AutoModel, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, prune_
from hf_ganzip.pruning.channels import ChannelSet, shapes_after
from hf_ganzip.pruning.choose import kept_count
from hf_ganzip.pruning.macs import count_macs, macs_of_shapes, weight_uses
from hf_ganzip.pruning.rules import rule_of

from ..conftest import refused, reopened, run, tiny_unet
from .conftest import UNETS, halved


def ddpm(sample_size, channels, attention):
    """Options of a model of the tables, with attention in one block."""
    kinds = ["Attn" if index == attention else "" for index in range(len(channels))]
    options = {"layers_per_block": 2, "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0}
    options |= {"act_fn": "silu", "norm_eps": 1e-6, "norm_num_groups": 32, "attention_head_dim": None}
    return options | {
        "sample_size": sample_size,
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


CIFAR, CELEBA = ddpm(32, (128, 256, 256, 256), 1), ddpm(64, (128, 256, 256, 256, 512), 2)
OF_TORCH_PRUNING = {"group_rule": "same_positions"}


@functools.cache
def traced(cifar):
    """Rule, channel sets, tensors on the meta device and uses of the weights of a model of the tables."""
    options = CIFAR if cifar else CELEBA
    with torch.device("meta"):
        model = UNet2DModel(**options)
    rule = rule_of(model)
    sets = rule.sets(model)
    assert not cifar or len(sets) == 50
    small = UNet2DModel(**options | {"block_out_channels": tuple(c // 4 for c in options["block_out_channels"])})
    return rule, sets, model.state_dict(), weight_uses(small)


class TestSizes:
    """Tables of Diff-Pruning and Singular Value Scaling, which do not depend on the criterion."""

    @pytest.mark.parametrize(
        "options, ratio, parameters, macs, more",
        [
            (CIFAR, 0.0, 35_746_307, 6.0641, {}),
            (CIFAR, 0.3, 19_851_157, 3.3919, {}),
            (CIFAR, 0.5, 8_968_451, 1.5204, {}),
            (CIFAR, 0.7, 5_120_462, 1.0762, {}),
            (CIFAR, 0.9, 661_496, None, {}),
            (CELEBA, 0.0, 78_700_803, None, {}),
            (CELEBA, 0.3, 43_735_002, None, {}),
            (CELEBA, 0.5, 19_714_179, None, {}),
            (CELEBA, 0.7, 9_252_711, None, {}),
            (CIFAR, 0.3, 13_949_333, None, OF_TORCH_PRUNING),
            (CIFAR, 0.5, 8_968_451, None, OF_TORCH_PRUNING),
            (CIFAR, 0.7, 2_348_942, None, OF_TORCH_PRUNING),
            (CIFAR, 0.9, 29_335_736, None, OF_TORCH_PRUNING),
        ],
    )
    def test_of_the_papers_and_of_torch_pruning(self, options, ratio, parameters, macs, more):
        rule, sets, state, uses = traced(options is CIFAR)
        config = PruneConfig("random", ratio, **more)
        shapes = shapes_after(state, sets, {each.name: kept_count(each, rule, ratio, config) for each in sets})
        assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters
        if macs is not None:
            assert macs_of_shapes(uses, shapes) == pytest.approx(macs * 1e9, rel=1e-4)

    @pytest.mark.slow
    def test_of_a_real_model(self, tmp_path):
        model = UNet2DModel(**CIFAR).eval()
        report = prune_(model, PruneConfig("magnitude", 0.5))
        assert report.parameters_after == model.num_parameters() == 8_968_451
        assert report.macs_after == count_macs(model)
        assert torch.equal(run(reopened(model, tmp_path)), run(model))

    def test_kept_widths(self):
        rule, plain = rule_of(tiny_unet()), ChannelSet("x", 256, ())
        normed = dataclasses.replace(plain, blocks=32, norm=True)
        for ratio, whole_groups, free in ((0.3, 192, 179), (0.5, 128, 128), (0.7, 96, 76), (0.9, 32, 25)):
            config, exact = PruneConfig("random", ratio), PruneConfig("random", ratio, group_rule="exact")
            assert kept_count(normed, rule, ratio, config) == whole_groups
            assert kept_count(plain, rule, ratio, config) == kept_count(normed, rule, ratio, exact) == free


@pytest.mark.parametrize("name", sorted(UNETS))
class TestEveryUNet:
    def test_every_block_loses_as_many(self, name):
        model, report, _, sets = halved(name)
        sets = {channels.name: channels for channels in sets}
        for each in report.sets:
            size = each.before // sets[each.name].blocks
            counts = torch.bincount(torch.tensor(each.kept) // size, minlength=sets[each.name].blocks)
            assert counts.unique().numel() == 1 and int(counts[0]) > 0
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm):
                assert module.num_groups == 4 and module.num_channels == len(module.weight)

    @pytest.mark.processor
    def test_saved_form(self, name, tmp_path):
        model = copy.deepcopy(halved(name)[0])
        expected = run(model)
        model.save_pretrained(tmp_path)
        for restored in (type(model).from_pretrained(tmp_path), AutoModel.from_pretrained(str(tmp_path))):
            assert torch.equal(run(restored), expected) and not restored.is_quantized
            assert all(parameter.requires_grad for parameter in restored.parameters())
        assert recorded_steps(restored)[0]["options"]["kept"]
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["block_out_channels"] == [8, 16] and config["quantization_config"]["bits"] is None
        skeleton = gz.from_config(tmp_path).eval()
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        assert {key: value.shape for key, value in skeleton.state_dict().items()} == shapes
        skeleton.load_state_dict(model.state_dict())
        assert torch.equal(run(skeleton), expected)

    @pytest.mark.processor
    def test_twice(self, name, tmp_path):
        model = copy.deepcopy(halved(name)[0])
        prune_(model, PruneConfig("random", 0.5, ratios={"time_embedding.*": 0.25}))
        restored = reopened(model, tmp_path)
        assert torch.equal(run(restored), run(model))
        assert [step["name"] for step in recorded_steps(restored)] == ["prune", "prune"]

    @pytest.mark.parametrize("group_rule", ["same_positions", "exact", "whole_groups"])
    def test_other_group_rules_twice(self, name, group_rule, tmp_path):
        """Widths that share no divisor with the groups of a norm over two of them, too."""
        model = UNETS[name]()
        for ratios in ({"conv_in": 0.6}, {}):
            report = prune_(model, PruneConfig("magnitude", 0.4, ratios=ratios, group_rule=group_rule))
            assert report.parameters_after < report.parameters_before
        assert torch.equal(run(reopened(model, tmp_path)), run(model))


class TestWholeGroups:
    """What stays is normalized as it was: a group keeps its channels, or goes with all of them."""

    @pytest.fixture(scope="class")
    @classmethod
    def pruned(cls):
        dense = UNETS["unet"]()
        model = copy.deepcopy(dense)
        report = prune_(model, PruneConfig("magnitude", 0.5, group_rule="whole_groups"))
        return dense, model, report

    def test_channels_of_a_group_share_its_fate(self, pruned):
        dense, _, report = pruned
        for channels in rule_of(dense).sets(dense):
            if channels.norm:
                kept = next(each.kept for each in report.sets if each.name == channels.name)
                size = channels.width // channels.blocks
                counts = torch.bincount(torch.tensor(kept) // size, minlength=channels.blocks)
                assert set(counts.tolist()) == {0, size} and len(kept) == channels.width // 2

    def test_norms_compute_what_they_did(self, pruned):
        dense, model, report = pruned
        kept = {each.name: list(each.kept) for each in report.sets}
        compared = 0
        for channels in rule_of(dense).sets(dense):
            for name in {part.tensor.rpartition(".")[0] for part in channels.slices if "norm" in part.tensor}:
                norm, new = dense.get_submodule(name), model.get_submodule(name)
                assert new.num_channels // new.num_groups == norm.num_channels // norm.num_groups
                if norm.num_channels == channels.width:
                    x = torch.randn(2, channels.width, 4, 4)
                    expected = norm(x)[:, kept[channels.name]]
                    torch.testing.assert_close(new(x[:, kept[channels.name]]), expected, rtol=1e-5, atol=1e-6)
                    compared += 1
        assert compared >= 10

    def test_saved_form(self, pruned, tmp_path):
        assert torch.equal(run(reopened(pruned[1], tmp_path)), run(pruned[1]))

    def test_one_channel_per_group_is_told(self, caplog):
        """Such a norm takes the mean of every channel away, and with it what the network knew of brightness."""
        prune_(UNETS["unet"](), PruneConfig("magnitude", 0.5))
        assert "conv_norm_out: such a norm takes the mean" in caplog.text and "'whole_groups'" in caplog.text
        caplog.clear()
        prune_(UNETS["unet"](), PruneConfig("magnitude", 0.5, group_rule="whole_groups"))
        assert not caplog.text


class TestBadInput:
    @pytest.mark.parametrize("options", [{"compensate_gain": True}, {"init": "he", "keep_affine_bias": True}])
    def test_options_of_generators(self, options):
        with pytest.raises(ValueError, match="UNet2DModel has none"):
            prune_(tiny_unet(), PruneConfig("random", 0.5, **options))

    def test_a_network_that_cannot_be_saved_is_left_as_it_was(self):
        model = tiny_unet()
        model.conv_in.extra = torch.nn.Linear(2, 2)
        with refused(model, "modules were added or removed"):
            prune_(model, PruneConfig("random", 0.5))
        assert model.config.get("quantization_config") is None and not recorded_steps(model)

    @pytest.mark.parametrize("criterion", ["dcp", "gan_slimming", "content_aware"])
    def test_criteria_of_generators(self, criterion):
        with pytest.raises(ValueError, match="UNet2DModel has"):
            prune_(tiny_unet(), PruneConfig(criterion))

    def test_a_group_that_would_be_emptied(self):
        with pytest.raises(ValueError, match="leaves no channel of"):
            prune_(tiny_unet(), PruneConfig("random", 0.99))
