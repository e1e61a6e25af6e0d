# SPDX-License-Identifier: Apache-2.0
"""Importance over timesteps: the sum and where it stops, resuming, conditions, images that are refused."""

import pytest
import torch

from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import PruneConfig, Slice, prune_
from hf_ganzip.pruning.channels import ChannelSet
from hf_ganzip.pruning.criteria import DiffPrune
from hf_ganzip.pruning.rules import rule_of

from ..conftest import tiny_unet
from .conftest import conditional, images


QUICK = {"timesteps": 6, "batch_size": 2, "progress": False, "threshold": 0.0}


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

    def summed(self, losses, threshold, **options):
        """Timesteps that were looked at and the values of the sum where losses are given and gradients are 1."""

        class Given(DiffPrune):
            steps = []

            def _step(self, model, weights, images, noise, scale, t):
                self.steps.append(t)
                return losses[t], [torch.ones_like(weight) for weight in weights]

        model, criterion = tiny_unet(), Given(images(), threshold, progress=False, **options)
        found = criterion._accumulate(model, {"conv_in.weight": model.conv_in.weight}, images())
        return Given.steps, found["conv_in.weight"].unique().tolist()

    @pytest.mark.parametrize("include, counted", [(False, 3), (True, 4)])
    def test_where_the_sum_stops(self, include, counted):
        losses = [100.0, 80.0, 40.0, 4.9, 50.0]
        steps, values = self.summed(losses, 0.05, timesteps=5, include_last=include)
        assert steps == [0, 1, 2, 3] and values == [counted]

    def test_thresholds_at_the_ends(self):
        assert len(self.summed([1.0] * 1000, 0.0)[0]) == 1000
        with pytest.raises(ValueError, match="stops before the first timestep"):
            self.summed([1.0] * 1000, 1.01)

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
        model, text = conditional(), torch.randn(4, 5, 12)
        sets = rule_of(model).sets(model)
        options = {"images": images(channels=4), "model_inputs": {"encoder_hidden_states": text}, **QUICK}
        whole = DiffPrune(**options)(model, sets)
        options["checkpoint_dir"] = str(tmp_path)
        original, calls = DiffPrune._step, []

        def interrupted(self, *args):
            calls.append(args[-1])
            if len(calls) == 5:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(DiffPrune, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DiffPrune(**options)(model, sets)
        resumed = DiffPrune(**options)(model, sets)
        assert calls == [0, 1, 2, 3, 4, 4, 5]
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        for other in ({"images": images(3, channels=4)}, {"model_inputs": {"encoder_hidden_states": text.flip(0)}}):
            with pytest.raises(ValueError, match="another model, other images or options"):
                DiffPrune(**options | other)(model, sets)

    @torch.no_grad()
    def test_conditions_and_no_gradients_around(self):
        model = conditional()
        text = torch.randn(4, 5, 12)
        criterion = DiffPrune(images(channels=4), model_inputs={"encoder_hidden_states": text}, **QUICK)
        report = prune_(model, PruneConfig(criterion, 0.5))
        assert report.criterion == "DiffPrune" and report.parameters_after < report.parameters_before
        (step,) = recorded_steps(model)
        assert "images" not in step["options"]["criterion_options"]

    def test_important_channels_stay(self):
        model = tiny_unet()
        with torch.no_grad():
            model.up_blocks[1].resnets[1].norm2.weight[0] = 30.0
        report = prune_(model, PruneConfig("taylor", 0.5, criterion_options={"images": images(), "timesteps": 6}))
        kept = {each.name: each.kept for each in report.sets}
        assert 0 in kept["up_blocks.1.resnets.1.conv1"]

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

    def test_without_images(self):  # of generators: test_criteria.py
        with pytest.raises(ValueError, match="needs images"):
            prune_(tiny_unet(), PruneConfig("diff_prune"))

    @pytest.mark.parametrize("options", [{"importance": "x"}, {"threshold": -1}, {"batch_size": 0}, {"timesteps": 0}])
    def test_wrong_options(self, options):
        with pytest.raises(ValueError, match="allowed are"):
            DiffPrune(**options)
