# SPDX-License-Identifier: Apache-2.0
"""Pruned diffusion UNets: the papers' sizes, which channels go, importance over timesteps, the saved form, refusals."""

import copy
import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import AutoModel, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import hf_ganzip as gz
from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, Slice, prune_
from hf_ganzip.pruning.channels import ChannelSet, shapes_after
from hf_ganzip.pruning.choose import kept_count
from hf_ganzip.pruning.criteria import DiffPrune
from hf_ganzip.pruning.macs import count_macs, macs_of_shapes, weight_uses
from hf_ganzip.pruning.rules import rule_of

from ..conftest import changed, run, state_of, tiny_generator, tiny_unet
from ..hub import LocalHub
from ..tiny_diffusion import conditional_unet, xl_unet


DDPM = {
    "layers_per_block": 2,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "act_fn": "silu",
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "attention_head_dim": None,
}
CIFAR = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CELEBA = {
    "sample_size": 64,
    "block_out_channels": (128, 256, 256, 256, 512),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
QUICK = {"timesteps": 6, "batch_size": 2, "progress": False, "threshold": 0.0}


conditional = functools.partial(conditional_unet, attention_head_dim=2)
MODELS = {
    "unet": tiny_unet,
    "one head": lambda: tiny_unet(attention_head_dim=None),
    "classes": lambda: tiny_unet(num_class_embeds=3),
    "scale and shift": lambda: tiny_unet(resnet_time_scale_shift="scale_shift"),
    "conditional": conditional,
    "stable diffusion xl": xl_unet,
    "linear projection": lambda: conditional(use_linear_projection=True),
}


def images(count=4, channels=3):
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


@functools.cache
def traced(cifar):
    """Rule, channel sets, tensors on the meta device and uses of the weights of a model of the tables."""
    options = DDPM | (CIFAR if cifar else CELEBA)
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
        "options, ratio, parameters, macs",
        [
            (CIFAR, 0.0, 35_746_307, 6.0641),
            (CIFAR, 0.3, 19_851_157, 3.3919),
            (CIFAR, 0.5, 8_968_451, 1.5204),
            (CIFAR, 0.7, 5_120_462, 1.0762),
            (CIFAR, 0.9, 661_496, None),
            (CELEBA, 0.0, 78_700_803, None),
            (CELEBA, 0.3, 43_735_002, None),
            (CELEBA, 0.5, 19_714_179, None),
            (CELEBA, 0.7, 9_252_711, None),
        ],
    )
    def test_of_the_papers(self, options, ratio, parameters, macs):
        found, operations = self.sizes(options, PruneConfig("random", ratio))
        assert found == parameters
        if macs is not None:
            assert operations == pytest.approx(macs * 1e9, rel=1e-4)

    @pytest.mark.parametrize(
        "ratio, parameters", [(0.3, 13_949_333), (0.5, 8_968_451), (0.7, 2_348_942), (0.9, 29_335_736)]
    )
    def test_of_torch_pruning(self, ratio, parameters):
        assert self.sizes(CIFAR, PruneConfig("random", ratio, group_rule="same_positions"))[0] == parameters

    def sizes(self, options, config):
        rule, sets, state, uses = traced(options is CIFAR)
        counts = {channels.name: kept_count(channels, rule, config.ratio, config) for channels in sets}
        shapes = shapes_after(state, sets, counts)
        return sum(torch.Size(shape).numel() for shape in shapes.values()), macs_of_shapes(uses, shapes)

    @pytest.mark.slow
    def test_of_a_real_model(self, tmp_path):
        model = UNet2DModel(**DDPM | CIFAR).eval()
        report = prune_(model, PruneConfig("magnitude", 0.5))
        assert report.parameters_after == model.num_parameters() == 8_968_451
        assert report.macs_after == count_macs(model)
        model.save_pretrained(tmp_path)
        assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path)), run(model))

    @pytest.mark.parametrize(
        "width, kept, plain",
        [(128, (96, 64, 64, 32), (89, 64, 38, 12)), (256, (192, 128, 96, 32), (179, 128, 76, 25))]
        + [(512, (384, 256, 160, 64), (358, 256, 153, 51))],
    )
    def test_kept_widths(self, width, kept, plain):
        rule = rule_of(tiny_unet())
        for ratio, normed, free in zip((0.3, 0.5, 0.7, 0.9), kept, plain):
            config = PruneConfig("random", ratio)
            assert kept_count(ChannelSet("x", width, (), blocks=32, norm=True), rule, ratio, config) == normed
            assert kept_count(ChannelSet("x", width, ()), rule, ratio, config) == free
            exact = PruneConfig("random", ratio, group_rule="exact")
            assert kept_count(ChannelSet("x", width, (), blocks=32, norm=True), rule, ratio, exact) == free


@pytest.mark.processor
@functools.cache
def halved(name):
    """A model with half of its channels, its report, and the tensors and channel sets of before; to be copied, not
    changed.
    """
    model = MODELS[name]()
    dense, sets = state_of(model), rule_of(model).sets(model)
    return model, prune_(model, PruneConfig("random", 0.5)), dense, sets


@pytest.mark.parametrize("name", sorted(MODELS))
class TestEveryUNet:
    def test_pruned_tensors_are_dense_ones_at_the_kept_indices(self, name):
        model, report, dense, sets = halved(name)
        kept = {each.name: torch.tensor(each.kept) for each in report.sets}
        expected = dict(dense)
        for key, value in dense.items():
            for axis in range(value.ndim):
                parts = [(c, p) for c in sets for p in c.slices if p.tensor == key and p.axis == axis]
                rows = [part.rows(kept[channels.name]) for channels, part in parts]
                if rows:
                    expected[key] = expected[key].index_select(axis, torch.cat(rows).sort().values)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        assert report.parameters_after < 0.5 * report.parameters_before

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

    def test_refined_and_quantized_on_top(self, name, tmp_path):
        model = copy.deepcopy(halved(name)[0])
        gz.refine_(model, gz.RefineConfig(progress=False))
        gz.quantize_(model, gz.QuantizeConfig("aciq", 4))
        expected = run(model)
        model.save_pretrained(tmp_path)
        restored = type(model).from_pretrained(tmp_path)
        assert torch.equal(run(restored), expected) and restored.is_quantized
        assert [step["name"] for step in recorded_steps(restored)] == ["prune", "refine", "quantize"]
        gz.dequantize_(restored)
        assert torch.equal(run(restored), expected)
        restored.save_pretrained(tmp_path / "dense")
        dense = type(model).from_pretrained(tmp_path / "dense")
        assert torch.equal(run(dense), expected)

    def test_twice(self, name, tmp_path):
        model = copy.deepcopy(halved(name)[0])
        prune_(model, PruneConfig("random", 0.5, ratios={"time_embedding.*": 0.25}))
        expected = run(model)
        model.save_pretrained(tmp_path)
        restored = type(model).from_pretrained(tmp_path)
        assert torch.equal(run(restored), expected)
        assert [step["name"] for step in recorded_steps(restored)] == ["prune", "prune"]

    def test_ratio_zero_is_the_identity(self, name, tmp_path):
        model = MODELS[name]()
        before = state_of(model)
        report = prune_(model, PruneConfig("random", 0.0))
        assert not changed(before, model)
        assert "nothing was removed" in str(report) and report.macs_before == report.macs_after
        model.save_pretrained(tmp_path)
        assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())

    @pytest.mark.parametrize("group_rule", ["same_positions", "exact"])
    def test_other_group_rules(self, name, group_rule):
        model = MODELS[name]()
        prune_(model, PruneConfig("magnitude", 0.4, group_rule=group_rule))
        assert torch.isfinite(run(model)).all()


class TestSavedForm:
    def pruned(self):
        model = tiny_unet()
        prune_(model, PruneConfig("random", 0.5))
        return model

    def test_pipelines(self, tmp_path):
        model = self.pruned()
        DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
        for cls in (DDPMPipeline, DiffusionPipeline):
            assert torch.equal(run(cls.from_pretrained(tmp_path).unet), run(model))

    @pytest.mark.process
    def test_from_a_hub(self, tmp_path):
        model = self.pruned()
        gz.refine_(model, gz.RefineConfig(progress=False))
        DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model.save_pretrained(tmp_path / "unet", max_shard_size="5KB")
        code = (
            "import hf_ganzip, torch\n"
            "from diffusers import AutoModel, DiffusionPipeline, UNet2DModel\n"
            "from tests.conftest import run\n"
            "found = [UNet2DModel.from_pretrained('me/unet'), AutoModel.from_pretrained('me/unet')]\n"
            "found += [hf_ganzip.load_model('me/unet'), DiffusionPipeline.from_pretrained('me/pipeline').unet]\n"
            "assert hf_ganzip.from_config('me/unet').num_parameters() == found[3].num_parameters()\n"
            f"torch.save([run(each) for each in found], {str(tmp_path / 'out.pt')!r})\n"
        )
        with LocalHub({"me/unet": tmp_path / "unet", "me/pipeline": tmp_path / "pipeline"}) as hub:
            hub.run(code, tmp_path / "cache")
            assert any("/me/unet/resolve/" in request for request in hub.requests)
        *quantized, pruned = torch.load(tmp_path / "out.pt")
        assert all(torch.equal(each, run(model)) for each in quantized)
        assert torch.equal(pruned, run(DDPMPipeline.from_pretrained(tmp_path / "pipeline").unet))

    @pytest.mark.process
    def test_fresh_weights_depend_on_the_seed_only(self, tmp_path):
        self.pruned().save_pretrained(tmp_path)
        code = (
            "import torch, hf_ganzip as gz\n"
            "torch.manual_seed(0)\n"
            f"model = gz.from_config({str(tmp_path)!r})\n"
            "print([round(float(p.sum()), 4) for p in model.parameters()])"
        )
        found = set()
        for seed in ("1", "2"):
            environment = os.environ | {"PYTHONHASHSEED": seed}
            found.add(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))
        assert len(found) == 1

    def test_conditional_networks_in_bfloat16(self):
        model = conditional().to(torch.bfloat16)
        report = prune_(model, PruneConfig("magnitude", 0.5))
        assert report.parameters_after < report.parameters_before and model.dtype == torch.bfloat16

    def test_fresh_weights_leave_the_generator_of_random_numbers_alone(self):
        model, state = tiny_unet(), torch.random.get_rng_state()
        prune_(model, PruneConfig("magnitude", 0.5, init="he"))
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_lora_for_the_dense_network_is_refused(self):
        peft = pytest.importorskip("peft")
        model, dense = conditional(), conditional()
        prune_(model, PruneConfig("random", 0.5))
        config = peft.LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False)
        dense.add_adapter(config)
        before = run(model)
        with pytest.raises((RuntimeError, ValueError), match="size mismatch"):
            model.load_lora_adapter(peft.get_peft_model_state_dict(dense), prefix=None)
        fresh = conditional()
        prune_(fresh, PruneConfig("random", 0.5))
        fresh.add_adapter(config)
        assert run(fresh).shape == before.shape and not torch.equal(run(fresh), before)

    def test_steps_after_saving_keep_what_went_before(self, tmp_path):
        model = self.pruned()
        model.save_pretrained(tmp_path)
        assert [step["name"] for step in recorded_steps(model)] == ["prune"]
        gz.refine_(model, gz.RefineConfig(progress=False))
        gz.quantize_(model, gz.QuantizeConfig(bits=4))
        model.save_pretrained(tmp_path)
        restored = UNet2DModel.from_pretrained(tmp_path)
        assert [step["name"] for step in recorded_steps(restored)] == ["prune", "refine", "quantize"]
        assert torch.equal(run(restored), run(model))

    def test_sharded_and_in_bfloat16(self, tmp_path):
        model = self.pruned()
        model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
        assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "shards")), run(model))
        half = UNet2DModel.from_pretrained(tmp_path / "shards", torch_dtype=torch.bfloat16)
        assert half.conv_in.weight.dtype == torch.bfloat16
        assert torch.equal(run(half), run(model.to(torch.bfloat16)))
        report = prune_(half, PruneConfig("magnitude", 0.5))
        assert report.parameters_after < report.parameters_before

    def test_it_trains_and_is_cast(self, tmp_path):
        self.pruned().save_pretrained(tmp_path)
        model = UNet2DModel.from_pretrained(tmp_path).train()
        model(images(2), 3).sample.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert model.half().conv_in.weight.dtype == torch.float16

    def test_skeletons_of_models_and_dicts(self, tmp_path):
        model = self.pruned()
        model.save_pretrained(tmp_path)
        for source in (model, json.loads((tmp_path / "config.json").read_text()), str(tmp_path)):
            skeleton = gz.from_config(source)
            assert skeleton.num_parameters() == model.num_parameters()
            assert torch.isfinite(run(skeleton)).all()
            skeleton.save_pretrained(tmp_path / "again")
            assert torch.equal(run(UNet2DModel.from_pretrained(tmp_path / "again")), run(skeleton.eval()))
        assert gz.from_config(tiny_generator()).num_parameters() == tiny_generator().num_parameters()

    def test_weights_of_another_structure_are_refused(self, tmp_path):
        model, other = self.pruned(), tiny_unet()
        with pytest.raises(RuntimeError, match="size mismatch"):
            model.load_state_dict(other.state_dict())
        model.save_pretrained(tmp_path)
        other.save_pretrained(tmp_path / "dense")
        (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(
            (tmp_path / "dense" / "diffusion_pytorch_model.safetensors").read_bytes()
        )
        with pytest.raises(ValueError, match="shape"):
            UNet2DModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "damage", [{"shapes": {"conv_in.weight": [4, 3, 3]}, "attributes": {}}, {"shapes": {}}, []]
    )  # more of them in tests/test_structure.py
    def test_damaged_structures(self, tmp_path, damage):
        self.pruned().save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["quantization_config"]["structure"] = damage
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match="structure"):
            UNet2DModel.from_pretrained(tmp_path)


class TestImportance:
    def test_numbers_by_hand(self):
        """W = [[1, -2], [.5, 1]], g = [[.1, .2], [-.4, .3]]: the example of the specification."""
        weights = {"a.weight": torch.tensor([[1.0, -2.0], [0.5, 1.0]]), "n.weight": torch.tensor([2.0, 1.0])}
        gradients = {"a.weight": torch.tensor([[0.1, 0.2], [-0.4, 0.3]]), "n.weight": torch.tensor([-0.1, 0.0])}

        def score(*slices, **options):
            return DiffPrune(**options)._score(ChannelSet("x", 2, slices), weights, gradients).tolist()

        out, into, norm = Slice("a.weight", 0), Slice("a.weight", 1), Slice("n.weight", 0)
        assert score(out) == pytest.approx([0.17, 0.13])
        assert score(into) == pytest.approx([0.05, 0.25])
        assert score(out, norm) == pytest.approx([0.37, 0.13])
        assert score(out, importance="absolute") == pytest.approx([0.5, 0.5])
        assert score(out, importance="sum") == pytest.approx([0.3, 0.1])

    def losses(self, values):
        """A criterion whose losses are given and whose gradients are 1 at every timestep."""

        class Given(DiffPrune):
            steps = []

            def _step(self, model, weights, images, noise, scale, t):
                self.steps.append(t)
                return values[t], [torch.ones_like(weight) for weight in weights]

        Given.steps = []
        return Given

    @pytest.mark.parametrize("include, counted", [(False, 3), (True, 4)])
    def test_where_the_sum_stops(self, include, counted):
        given = self.losses([100.0, 80.0, 40.0, 4.9, 50.0])
        criterion = given(images(), 0.05, timesteps=5, include_last=include, progress=False)
        model = tiny_unet()
        found = criterion._accumulate(model, {"conv_in.weight": model.conv_in.weight}, images())
        assert given.steps == [0, 1, 2, 3] and found["conv_in.weight"].unique().tolist() == [counted]

    def test_thresholds_at_the_ends(self):
        given = self.losses([1.0] * 1000)
        model = tiny_unet()
        weights = {"conv_in.weight": model.conv_in.weight}
        given(images(), 0.0, progress=False)._accumulate(model, weights, images())
        assert len(given.steps) == 1000
        with pytest.raises(ValueError, match="stops before the first timestep"):
            given(images(), 1.01, progress=False)._accumulate(model, weights, images())

    def test_gradients_add_up_and_batches_change_memory_only(self):
        model = tiny_unet()
        sets = rule_of(model).sets(model)
        whole = DiffPrune(images(), **QUICK | {"batch_size": 4})(model, sets)
        parts = DiffPrune(images(), **QUICK | {"batch_size": 1})(model, sets)
        for channels in sets:
            torch.testing.assert_close(whole[channels.name], parts[channels.name], rtol=1e-4, atol=1e-9)
            assert (whole[channels.name] >= 0).all() and float(whole[channels.name].max()) > 0
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    def test_the_loss_is_the_one_of_the_paper(self):
        model = tiny_unet()
        weights = [model.conv_in.weight]
        noise = torch.randn(4, 3, 8, 8)
        criterion = DiffPrune(images(), **QUICK)
        loss, (gradient,) = criterion._step(model, weights, images(), noise, (0.8, 0.6), 3)
        expected = (noise - model(0.8 * images() + 0.6 * noise, 3).sample).square().sum(dim=(1, 2, 3)).mean()
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, weights)[0], rtol=1e-4, atol=1e-5)

    def test_resumes_exactly(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_ganzip.pruning.criteria.diff_prune._SAVE_EVERY", 2)
        model = tiny_unet()
        sets = rule_of(model).sets(model)
        whole = DiffPrune(images(), **QUICK)(model, sets)
        original, calls = DiffPrune._step, []

        def interrupted(self, *args):
            calls.append(args[-1])
            if len(calls) == 5:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(DiffPrune, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DiffPrune(images(), checkpoint_dir=str(tmp_path), **QUICK)(model, sets)
        resumed = DiffPrune(images(), checkpoint_dir=str(tmp_path), **QUICK)(model, sets)
        assert calls == [0, 1, 2, 3, 4, 4, 5]
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        with pytest.raises(ValueError, match="another model, other images or options"):
            DiffPrune(images(3), checkpoint_dir=str(tmp_path), **QUICK)(model, sets)

    def test_other_conditions_belong_to_another_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_ganzip.pruning.criteria.diff_prune._SAVE_EVERY", 2)
        model = conditional()
        sets = rule_of(model).sets(model)
        options = {"images": images(channels=4), "checkpoint_dir": str(tmp_path), **QUICK}
        text = torch.randn(4, 5, 12)
        DiffPrune(model_inputs={"encoder_hidden_states": text}, **options)(model, sets)
        with pytest.raises(ValueError, match="another model, other images or options"):
            DiffPrune(model_inputs={"encoder_hidden_states": text.flip(0)}, **options)(model, sets)

    @torch.no_grad()
    def test_without_gradients_around(self):
        options = {"images": images(), **QUICK}
        assert prune_(tiny_unet(), PruneConfig("diff_prune", 0.5, criterion_options=options)).parameters_after > 0

    def test_conditions(self):
        model = conditional()
        text = torch.randn(4, 5, 12)
        criterion = DiffPrune(images(channels=4), model_inputs={"encoder_hidden_states": text}, **QUICK)
        report = prune_(model, PruneConfig(criterion, 0.5))
        assert report.criterion == "DiffPrune"
        (step,) = recorded_steps(model)
        assert "images" not in step["options"]["criterion_options"]

    def test_important_channels_stay(self):
        model = tiny_unet()
        with torch.no_grad():
            model.up_blocks[1].resnets[1].norm2.weight[0] = 30.0
        report = prune_(model, PruneConfig("taylor", 0.5, criterion_options={"images": images(), "timesteps": 6}))
        kept = {each.name: each.kept for each in report.sets}
        assert 0 in kept["up_blocks.1.resnets.1.conv1"]


class TestBadInput:
    @pytest.mark.parametrize("options", [{"compensate_gain": True}, {"init": "he", "keep_affine_bias": True}])
    def test_options_of_generators(self, options):
        with pytest.raises(ValueError, match="UNet2DModel has none"):
            prune_(tiny_unet(), PruneConfig("random", 0.5, **options))

    def test_a_network_that_cannot_be_saved_is_left_as_it_was(self):
        model = tiny_unet()
        model.conv_in.extra = torch.nn.Linear(2, 2)
        before = state_of(model)
        with pytest.raises(ValueError, match="modules were added or removed"):
            prune_(model, PruneConfig("random", 0.5))
        assert not changed(before, model)
        assert model.config.get("quantization_config") is None and not recorded_steps(model)

    @pytest.mark.parametrize(
        "bad",
        [
            (images() * 127 + 128).to(torch.uint8),
            images() * 127 + 128,
            images() * torch.nan,
            images()[..., :4],
            images(channels=1),
            images()[0],
            [1],
        ],
        ids=["uint8", "0 to 255", "NaN", "size", "grey", "one", "list"],
    )
    def test_images_out_of_range_or_of_another_size(self, bad):
        with pytest.raises(ValueError, match=r"allowed are tensors \(N, 3, 8, 8\) of floats in \[-1, 1\]"):
            prune_(tiny_unet(), PruneConfig("diff_prune", criterion_options={"images": bad, **QUICK}))

    def test_without_images_or_a_unet(self):
        with pytest.raises(ValueError, match="needs images"):
            prune_(tiny_unet(), PruneConfig("diff_prune"))
        with pytest.raises(ValueError, match="StyleGAN2Generator is none"):
            prune_(tiny_generator(), PruneConfig("diff_prune", criterion_options={"images": images()}))

    @pytest.mark.parametrize("criterion", ["dcp", "gan_slimming", "content_aware"])
    def test_criteria_of_generators(self, criterion):
        with pytest.raises(ValueError, match="UNet2DModel has"):
            prune_(tiny_unet(), PruneConfig(criterion))

    @pytest.mark.parametrize("options", [{"importance": "x"}, {"threshold": -1}, {"batch_size": 0}, {"timesteps": 0}])
    def test_options(self, options):
        with pytest.raises(ValueError, match="allowed are"):
            DiffPrune(**options)

    def test_limits(self):
        for option in ("max_params", "max_macs"):
            model = tiny_unet()
            dense = model.num_parameters() if option == "max_params" else count_macs(model)
            report = prune_(model, PruneConfig("random", **{option: dense // 2}))
            after = report.parameters_after if option == "max_params" else report.macs_after
            assert dense // 5 < after <= dense // 2
            assert report.macs_after == count_macs(model)
            with pytest.raises(ValueError, match="cannot be reached; the least are"):
                prune_(tiny_unet(), PruneConfig("random", **{option: 10}))

    def test_a_broken_model_is_left_as_it_was(self):
        model = tiny_unet()
        with torch.no_grad():
            model.conv_in.bias[:] = torch.inf
        before = state_of(model)
        with pytest.raises(ValueError, match="conv_in is not finite after pruning"):
            prune_(model, PruneConfig("random", 0.5))
        assert not changed(before, model)
        assert model.config.get("quantization_config") is None

    def test_a_group_that_would_be_emptied(self):
        with pytest.raises(ValueError, match="leaves no channel of"):
            prune_(tiny_unet(), PruneConfig("random", 0.99))
