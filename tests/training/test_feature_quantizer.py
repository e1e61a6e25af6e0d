# SPDX-License-Identifier: Apache-2.0
"""The feature quantizer: official values, hand-computed steps, invariants, layouts of others, and processes."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ganzip.checkpoints.codebooks import (
    from_official_state,
    from_vector_quantize_pytorch,
    to_official_state,
    to_vector_quantize_pytorch,
)
from hf_ganzip.training.feature_quantization import PendingStatistics, phase, update_codebooks_
from hf_ganzip.training.feature_quantizer import FeatureQuantizer

from ..conftest import changed, state_of
from ..processes import run_processes
from .conftest import PLAIN, near, quantizer, same


GOLDEN = Path(__file__).parents[1] / "golden"
EXAMPLE = torch.tensor([[1.0, 0], [0, 1], [2, 1], [3, 3]])
CODES = [[0.0, 0], [2, 2]]


@pytest.mark.parametrize("name", ["fq_small", "fq_binary"])
def test_official_layer_over_training_steps_and_in_eval_mode(name):
    options = json.loads((GOLDEN / "feature_quantizer.json").read_text())[name]
    io = load_file(GOLDEN / "feature_quantizer.io.safetensors")
    chosen = {"feed": "quantized", "decay": options["decay"], "weight": options["commitment"]}
    layer = FeatureQuantizer(options["dim"], options["num_embeddings"], preset="official", **chosen)
    layer.embed.copy_(io[f"{name}.embed0"].T)
    layer.embed_avg.copy_(layer.embed)
    for step in range(4):
        expected = {key: io[f"{name}.{step}.{key}"] for key in ("x", "y", "loss", "perplexity", "upstream", "grad_x")}
        x = expected["x"].clone().requires_grad_(True)
        found = layer(x)
        near(found.output.detach(), expected["y"], 1e-5)
        near(found.loss.detach(), expected["loss"].flatten(), 1e-6)
        near(found.perplexity, expected["perplexity"], 1e-4)
        ((found.output * expected["upstream"]).sum() + found.loss.sum()).backward()
        near(x.grad, expected["grad_x"], 1e-6)
        state = to_official_state(layer)
        for key, value in state.items():
            reference = io[f"{name}.{step}.{key}"]
            near(value, reference, 1e-5 * max(1.0, float(reference.abs().max())))
    layer.eval()
    before = state_of(layer)
    found = layer(io[f"{name}.eval.x"])
    near(found.output, io[f"{name}.eval.y"], 1e-5 * max(1.0, float(io[f"{name}.eval.y"].abs().max())))
    near(found.loss, io[f"{name}.eval.loss"].flatten(), 1e-5)
    assert not changed(before, layer)


class TestByHand:
    def test_assignments_loss_and_gradient(self):
        layer = quantizer(embed=CODES, init_state="consistent", weight=0.25)
        x = EXAMPLE.clone().requires_grad_(True)
        found = layer(x)
        assert found.indices.tolist() == [0, 0, 1, 1] and int(found.codes_used) == 2
        near(found.loss, [0.15625])
        near(found.perplexity, 2.0, 1e-5)
        (gradient,) = torch.autograd.grad(found.loss.sum(), x)
        near(gradient, [[0.0625, 0], [0, 0.0625], [0, -0.0625], [0.0625, 0.0625]])

    @pytest.mark.parametrize(
        "state, decay, counts, codes",
        [
            ("consistent", 0.9, [1.1, 1.1], [[0.090909, 0.090909], [2.090909, 2.0]]),
            ("official", 0.9, [0.2, 0.2], [[0.5, 0.5], [11.5, 11.0]]),
            ("zero", 0.9, [0.2, 0.2], [[0.5, 0.5], [2.5, 2.0]]),
            ("consistent", 0.0, [2.0, 2.0], [[0.5, 0.5], [2.5, 2.0]]),  # the batch alone
            ("consistent", 1.0, [1.0, 1.0], CODES),  # nothing changes
        ],
    )
    def test_first_update(self, state, decay, counts, codes):
        layer = quantizer(embed=CODES, init_state=state, decay=decay)
        layer(EXAMPLE)
        near(layer.cluster_size, counts)
        near(layer.embed, codes)

    def test_second_update(self):
        layer = quantizer(embed=CODES, weight=1.0)
        layer(EXAMPLE)
        near(layer(EXAMPLE).loss, [0.5630165])
        near(layer.cluster_size, [1.19, 1.19])
        near(layer.embed, [[0.159664, 0.159664], [2.159664, 2.0]], 2e-6)

    @pytest.mark.parametrize("order", ["NCHW", "NHWC", "NCWH", "CNHW", "HWCN"])
    @pytest.mark.parametrize("samples", [1, 3])
    def test_any_order_in_memory(self, samples, order):
        features = torch.randn(samples, 6, 4, 5, generator=torch.Generator().manual_seed(0))
        axes = ["NCHW".index(axis) for axis in order]
        other = features.permute(axes).contiguous().permute([axes.index(axis) for axis in range(4)])
        assert other.shape == features.shape
        layer, copy = quantizer(6, 6, embed=torch.eye(6).tolist()), quantizer(6, 6, embed=torch.eye(6).tolist())
        expected, found = layer(features), copy(other.requires_grad_())
        (gradient,) = torch.autograd.grad(found.loss.sum(), other)
        near(gradient, (other - found.output).detach() * (2 * copy.weight / (6 * 4 * 5)))
        steps = [each.stride()[samples == 1 :] for each in (gradient, other)]  # of one sample anything goes
        assert steps[0] == steps[1]
        assert torch.equal(found.indices, expected.indices)
        near(found.loss, expected.loss)
        near(found.output, expected.output)
        near(copy.embed, layer.embed)

    def test_unequal_counts(self):
        layer = quantizer(embed=CODES, weight=1.0)
        found = layer(torch.tensor([[0.0, 0], [0, 1], [1, 0], [2, 2]]))
        near(found.loss, [0.25])
        near(found.perplexity, 1.7547653, 1e-5)
        near(layer.embed, [[0.0833333965] * 2, [1.9999981818] * 2], 2.4e-7)

    def test_a_code_that_is_never_used_in_the_official_state(self):
        layer = quantizer(embed=[[0.0, 0], [1, 0]], init_state="official")
        for step in range(1, 111):
            layer(torch.zeros(4, 2))
            expected = {1: 90004.5, 2: 81002.13158, 3: 72901.34502, 50: 515.3801, 100: 2.65615, 110: 0.92614}.get(step)
            if expected:
                assert float(layer.embed[1, 0]) == pytest.approx(expected, rel=1e-4)


class TestInvariants:
    def test_outputs_are_codes_exactly_and_quantizing_them_again_changes_nothing(self):
        layer = quantizer(8, 5, decay=1.0).eval()
        h = torch.randn(3, 8, 4, 4)
        found = layer(h)
        rows = found.output.movedim(1, -1).reshape(-1, 8)
        assert torch.equal(rows, layer.embed[found.indices.flatten()])
        again = layer(found.output)
        assert torch.equal(again.output, found.output) and float(again.loss.sum()) == 0

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_chooses_the_same_codes_and_keeps_float32_state(self, dtype):
        layer = quantizer(16, 32).eval()
        h = torch.randn(2, 16, 5, 5).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(h)
        assert torch.equal(found.indices, layer(h.float()).indices) and found.output.dtype == dtype
        embed = layer.embed.clone()
        layer.to(dtype)
        assert layer.embed.dtype == torch.float32 and torch.equal(layer.embed, embed)

    def test_chunks_translation_and_nearest_neighbours(self):
        layer = quantizer(6, 20).eval()
        h = torch.randn(50, 6)
        indices = layer(h).indices
        assert torch.equal(indices, torch.cdist(h, layer.embed).argmin(dim=1))
        layer.chunk = 20 * 7
        assert torch.equal(layer(h).indices, indices)
        layer.embed += 3
        assert torch.equal(layer(h + 3).indices, indices)


def sharing(share, **options):
    """A quantizer with the same codes for every share."""
    torch.manual_seed(0)
    return quantizer(6, 12, share=share, **options)


class TestShare:
    """A codebook that matches a random share of the positions."""

    @pytest.mark.parametrize("shape", [(5, 6, 4, 8), (5, 32, 6), (160, 6)])
    @pytest.mark.parametrize("share, matched", [(0.25, 8), (0.01, 1), (0.99, 32), (1.0, 32)])
    def test_as_many_positions_of_every_sample_get_their_nearest_code(self, shape, share, matched):
        partly, wholly = sharing(share), sharing(1.0)
        h = torch.randn(shape)
        found, whole = partly(h), wholly(h)
        indices = found.indices.view(1 if len(shape) == 2 else 5, -1)
        matched = -(-int(share * 1000) * 160 // 1000) if len(shape) == 2 else matched
        assert ((indices >= 0).sum(dim=1) == matched).all()
        chosen = found.indices >= 0
        assert torch.equal(found.indices[chosen], whole.indices[chosen]) and found.indices.shape == whole.indices.shape
        mask = chosen[:, None] if len(shape) == 4 else chosen[..., None]
        assert torch.equal(found.output, torch.where(mask, whole.output, h))
        rows = (h.movedim(1, -1) if len(shape) == 4 else h)[chosen]
        errors = (rows - sharing(1.0).embed[found.indices[chosen]]).square().view(len(indices), -1).mean(dim=1)
        torch.testing.assert_close(found.loss, 0.25 * errors)

    def test_only_the_matched_positions_move_the_codes_and_get_gradients_of_the_loss(self):
        h = torch.randn(3, 6, 4, 4).requires_grad_()
        partly = sharing(0.25, feed="continuous")
        found = partly(h)
        assert float(partly.last_counts.sum()) == 12 and int(found.codes_used) <= 12
        assert found.output is h
        found.loss.sum().backward()
        assert torch.equal((h.grad != 0).any(dim=1), found.indices >= 0)
        torch.manual_seed(1)
        assert not torch.equal(partly(h).indices >= 0, found.indices >= 0)  # drawn anew

    def test_the_mean_loss_is_that_of_all_positions_and_evaluation_takes_all(self):
        partly = sharing(0.25, feed="continuous", decay=1.0)
        h = torch.randn(2, 6, 8, 8)
        expected = sharing(1.0, feed="continuous")(h).loss
        mean = torch.stack([partly(h).loss for _ in range(400)]).mean(dim=0)
        torch.testing.assert_close(mean, expected, rtol=0.03, atol=0)
        found = partly.eval()(h)
        assert (found.indices >= 0).all()
        torch.testing.assert_close(found.loss, expected)


class TestBadInput:
    def test_options(self):
        with pytest.raises(ValueError, match="feed is 'x'; allowed are quantized, continuous; .*num_codes 0"):
            FeatureQuantizer(3, 0, feed="x")
        with pytest.raises(ValueError, match="preset"):
            FeatureQuantizer(3, 4, "none")
        with pytest.raises(ValueError, match="phase is 'x'"), phase(quantizer(), "x"):
            pass
        for share in (0, -0.5, 1.5, math.nan):
            with pytest.raises(ValueError, match="share is .*allowed is above 0, to 1"):
                quantizer(share=share)

    def test_features(self):
        layer = quantizer(4, 3)
        with pytest.raises(ValueError, match=r"shape \(2, 5, 3, 3\); allowed are \(B, 4, H, W\)"):
            layer(torch.randn(2, 5, 3, 3))
        with pytest.raises(TypeError, match="torch.int64"):
            layer(torch.zeros(2, 4, 3, 3, dtype=torch.int64))

    @pytest.mark.parametrize("share", [0.5, 1.0])
    @pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 0, 6), (0, 6)])
    def test_nothing_to_match_moves_nothing(self, shape, share):
        layer = quantizer(6, 12, share=share)
        before = layer.embed.clone()
        found = layer(torch.zeros(shape))
        assert found.output.shape == shape and not found.indices.numel() and not found.loss.any()
        assert torch.equal(layer.embed, before) and int(layer.num_updates) == 0

    def test_non_finite_features_never_enter(self):
        layer, clean = quantizer(3, 4, embed=torch.eye(4, 3).tolist()), torch.randn(10, 3)
        other = copy.deepcopy(layer)
        broken = torch.cat([clean, torch.tensor([[math.nan, 0, 0], [0, math.inf, 0]])])
        found = layer(broken)
        other(clean)
        near(layer.embed, other.embed)
        assert torch.isfinite(found.loss).all()


@pytest.mark.parametrize(
    "there, back, name, shape",
    [
        (to_official_state, from_official_state, "embed", (4, 6)),
        (to_vector_quantize_pytorch, from_vector_quantize_pytorch, "_codebook.embed", (1, 6, 4)),
    ],
)
def test_layouts_of_others_and_back(there, back, name, shape):
    layer, other = quantizer(4, 6), quantizer(4, 6)
    layer(torch.randn(20, 4))
    state = there(layer)
    assert state[name].shape == shape
    other.load_state_dict(back(state))
    assert torch.equal(other.embed, layer.embed) and torch.equal(other.embed_avg, layer.embed_avg)


def _train_on_shares(rank, world, options):
    """States of a codebook, and of what it collected since, that saw its process's share of every batch."""
    torch.manual_seed(0)
    features = torch.randn(4, 12, 3)
    layer = FeatureQuantizer(3, 5, **PLAIN | options)
    layer.embed.add_(rank)  # other starts: rank 0's is taken
    for batch in features:
        layer(batch.chunk(world)[rank])
        update_codebooks_(layer)
    state = layer.state_dict()
    layer(features[0].chunk(world)[rank])
    return state, PendingStatistics(layer).state_dict()


@pytest.mark.parametrize("options", [{}, {"follow": True, "accumulate": "step"}], ids=["", "following"])
def test_two_processes_with_shares_equal_one_process_with_all(tmp_path, options):
    (first, collected), second = run_processes(_train_on_shares, 2, tmp_path, options)
    assert same(first, second[0]) and same(collected, second[1])
    state, wanted = _train_on_shares(0, 1, options)
    for key, value in state.items():
        near(first[key], value, 2e-6 if options else 1e-6)
    if options:
        layer = FeatureQuantizer(3, 5, **PLAIN | options)
        PendingStatistics(layer).load_state_dict(collected)
        near(layer.pending.statistics, wanted["0.statistics"], 2e-6)
