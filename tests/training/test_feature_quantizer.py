# SPDX-License-Identifier: Apache-2.0
"""The feature quantizer: official values, hand-computed steps, invariants, and places in discriminators."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_ganzip.checkpoints.codebooks import (
    from_official_state,
    from_vector_quantize_pytorch,
    to_official_state,
    to_vector_quantize_pytorch,
)
from hf_ganzip.models import BigGANDiscriminator, StyleGAN2Discriminator, UGATITDiscriminator
from hf_ganzip.training.feature_quantization import (
    FQ_PRESETS,
    FQConfig,
    add_feature_quantizers,
    codes_in_use,
    phase,
    remove_feature_quantizers,
    update_codebooks_,
    warn_of_dead_codebooks,
)
from hf_ganzip.training.feature_quantizer import PRESETS, FeatureQuantizer

from ..conftest import tiny_biggan_discriminator, tiny_discriminator, tiny_ugatit_discriminator
from ..processes import run_processes


GOLDEN = Path(__file__).parents[1] / "golden"
EXAMPLE = torch.tensor([[1.0, 0], [0, 1], [2, 1], [3, 3]])


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=tolerance)


PLAIN = {"warmup_steps": 0, "anneal_steps": 0, "settle_steps": 0}
PLAIN |= {"init": "normal", "revive_below": 0.0, "follow": False}
CODES = [[0.0, 0], [2, 2]]


def quantizer(dim=2, codes=2, embed=None, **options):
    """The equations alone."""
    made = FeatureQuantizer(dim, codes, **PLAIN | options)
    if embed is not None:
        made.embed.copy_(torch.tensor(embed))
        if made.init_state != "zero":
            made.embed_avg.copy_(made.embed)
    return made


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
        close(found.output.detach(), expected["y"], 1e-5)
        close(found.loss.detach(), expected["loss"].flatten(), 1e-6)
        close(found.perplexity, expected["perplexity"], 1e-4)
        ((found.output * expected["upstream"]).sum() + found.loss.sum()).backward()
        close(x.grad, expected["grad_x"], 1e-6)
        state = to_official_state(layer)
        for key, value in state.items():
            reference = io[f"{name}.{step}.{key}"]
            close(value, reference, 1e-5 * max(1.0, float(reference.abs().max())))
    layer.eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    found = layer(io[f"{name}.eval.x"])
    close(found.output, io[f"{name}.eval.y"], 1e-5 * max(1.0, float(io[f"{name}.eval.y"].abs().max())))
    close(found.loss, io[f"{name}.eval.loss"].flatten(), 1e-5)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


class TestByHand:
    def test_assignments_loss_and_gradient(self):
        layer = quantizer(embed=CODES, init_state="consistent", weight=0.25)
        x = EXAMPLE.clone().requires_grad_(True)
        found = layer(x)
        assert found.indices.tolist() == [0, 0, 1, 1]
        close(found.loss, [0.15625])
        close(found.perplexity, 2.0, 1e-5)
        (gradient,) = torch.autograd.grad(found.loss.sum(), x)
        close(gradient, [[0.0625, 0], [0, 0.0625], [0, -0.0625], [0.0625, 0.0625]])

    @pytest.mark.parametrize(
        "state, counts, codes",
        [
            ("consistent", [1.1, 1.1], [[0.090909, 0.090909], [2.090909, 2.0]]),
            ("official", [0.2, 0.2], [[0.5, 0.5], [11.5, 11.0]]),
            ("zero", [0.2, 0.2], [[0.5, 0.5], [2.5, 2.0]]),
        ],
    )
    def test_first_update(self, state, counts, codes):
        layer = quantizer(embed=CODES, init_state=state, decay=0.9)
        layer(EXAMPLE)
        close(layer.cluster_size, counts)
        close(layer.embed, codes, 2e-6)

    def test_second_update(self):
        layer = quantizer(embed=CODES, weight=1.0)
        layer(EXAMPLE)
        close(layer(EXAMPLE).loss, [0.5630165])
        close(layer.cluster_size, [1.19, 1.19])
        close(layer.embed, [[0.159664, 0.159664], [2.159664, 2.0]], 2e-6)

    @pytest.mark.parametrize("order", ["NCHW", "NHWC", "NCWH", "CNHW", "HWCN"])
    @pytest.mark.parametrize("samples", [1, 3])
    def test_any_order_in_memory(self, samples, order):
        features = torch.randn(samples, 6, 4, 5, generator=torch.Generator().manual_seed(0))
        axes = ["NCHW".index(axis) for axis in order]
        other = features.permute(axes).contiguous().permute([axes.index(axis) for axis in range(4)])
        assert other.shape == features.shape
        layer, copy = quantizer(6, 6, embed=torch.eye(6).tolist()), quantizer(6, 6, embed=torch.eye(6).tolist())
        expected, found = layer(features), copy(other)
        assert torch.equal(found.indices, expected.indices)
        close(found.loss, expected.loss)
        close(found.output, expected.output)
        close(copy.embed, layer.embed)

    @pytest.mark.parametrize("state", ["consistent", "official", "zero"])
    def test_decay_zero_takes_the_batch_alone(self, state):
        layer = quantizer(embed=CODES, init_state=state, decay=0.0)
        layer(EXAMPLE)
        close(layer.embed, [[0.5, 0.5], [2.5, 2.0]], 2e-6)

    def test_decay_one_changes_nothing(self):
        layer = quantizer(embed=CODES, decay=1.0)
        layer(EXAMPLE)
        close(layer.embed, [[0.0, 0], [2, 2]])

    def test_unequal_counts(self):
        layer = quantizer(embed=CODES, weight=1.0)
        found = layer(torch.tensor([[0.0, 0], [0, 1], [1, 0], [2, 2]]))
        close(found.loss, [0.25])
        close(found.perplexity, 1.7547653, 1e-5)
        close(layer.embed, [[0.0833333965] * 2, [1.9999981818] * 2], 2.4e-7)

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

    def test_gradient_is_the_identity_and_reaches_no_buffer(self):
        layer, h = quantizer(4, 3), torch.randn(2, 4, 3, 3, requires_grad=True)
        layer(h).output.sum().backward()
        assert torch.equal(h.grad, torch.ones_like(h))
        assert not any(buffer.requires_grad for buffer in layer.buffers()) and not list(layer.parameters())

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

    def test_mass_is_conserved(self):
        layer = quantizer(4, 6, decay=0.8)
        for _ in range(5):
            layer(torch.randn(30, 4))
        assert float(layer.cluster_size.sum()) == pytest.approx(0.8**5 * 6 + (1 - 0.8**5) * 30, rel=1e-5)

    def test_one_code_follows_the_mean(self):
        layer, h = quantizer(3, 1, decay=0.0), torch.randn(40, 3)
        found = layer(h)
        close(layer.embed[0], h.mean(dim=0), 1e-5)
        assert float(found.perplexity) == pytest.approx(1, abs=1e-5) and int(found.codes_used) == 1

    @pytest.mark.parametrize(
        "counts, value", [((1, 1, 1, 1), 4), ((3, 1, 0, 0), 1.75477), ((4, 0, 0, 0), 1), ((2, 2, 0, 0), 2)]
    )
    def test_perplexity(self, counts, value):
        layer = quantizer(1, 4, embed=[[0.0], [10], [20], [30]]).eval()
        h = torch.cat([torch.full((count, 1), 10.0 * code) for code, count in enumerate(counts)])
        assert float(layer(h).perplexity) == pytest.approx(value, abs=1e-4)

    @pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 7, 4), (9, 4)])
    def test_shapes(self, shape):
        found = quantizer(4, 5)(torch.randn(shape))
        assert found.output.shape == shape
        assert found.indices.shape == (shape[:1] + shape[2:] if len(shape) == 4 else shape[:-1])
        assert found.loss.shape == (1 if len(shape) == 2 else 2,)


class TestSchedules:
    def test_warm_up_and_annealing_count_updates(self):
        layer = quantizer(3, 4, warmup_steps=2, anneal_steps=4, weight=0.5)
        weights, continuous = [], []
        for _ in range(5):
            h = torch.randn(6, 3)
            weights.append(layer.current_weight)
            continuous.append(layer(h).output is h)
        assert weights == [0, 0.125, 0.25, 0.375, 0.5] and continuous == [True, True, False, False, False]

    def test_continuous_feed_is_the_input_itself(self):
        h = torch.randn(2, 4, 3, 3)
        assert quantizer(4, 5, feed="continuous")(h).output is h

    @pytest.mark.parametrize("update_on, moved", [("d", {"d"}), ("d+g", {"d", "g"})])
    def test_phases(self, update_on, moved):
        for name in ("d", "g", "frozen"):
            layer = quantizer(3, 4, update_on=update_on)
            before = layer.embed.clone()
            with phase(layer, name):
                layer(torch.randn(9, 3))
            assert torch.equal(layer.embed, before) == (name not in moved)
            assert layer.phase == "d"

    def test_collected_micro_batches_are_one_batch_and_separate_ones_are_not(self):
        whole, parts, separate = (quantizer(3, 4, embed=torch.eye(4, 3).tolist()) for _ in range(3))
        parts.accumulate = "step"
        h = torch.randn(12, 3)
        whole(h)
        for chunk in h.split(4):
            parts(chunk)
            separate(chunk)
        update_codebooks_(parts)
        close(parts.embed, whole.embed)
        assert not torch.allclose(separate.embed, whole.embed)
        assert int(parts.num_updates) == 1 and int(separate.num_updates) == 3

    def test_revival_moves_dead_codes_and_their_state(self):
        layer = quantizer(2, 3, embed=[[0.0, 0], [50, 50], [-50, 50]], revive_below=0.1, decay=0.5)
        for _ in range(2):
            h = torch.randn(21, 2) * 0.1
            layer(h)
        assert layer.embed.abs().max() < 1 and layer.cluster_size.min() >= 0.1 * 7
        close(layer.embed_avg / layer.cluster_size[:, None], layer.embed, 1e-3)

    @pytest.mark.parametrize("accumulate", ["forward", "step"])
    def test_revived_codes_are_different_features_with_the_mean_count(self, accumulate):
        layer = quantizer(2, 32, init_state="consistent", decay=0.5, revive_below=0.2, accumulate=accumulate)
        layer.embed.copy_(torch.full((32, 2), 50.0) + torch.arange(32)[:, None])
        layer.embed_avg.copy_(layer.embed)
        seen = torch.randn(120, 2)
        for part in (seen,) if accumulate == "forward" else seen.split(40):
            layer(part)
        update_codebooks_(layer)
        revived = layer.embed[layer.cluster_size == 120 / 32]
        assert len(revived) >= 31 and len(layer.embed.unique(dim=0)) == 32
        assert all((row == seen).all(dim=1).any() for row in revived)

    def test_codes_from_the_data(self):
        layer, h = quantizer(3, 4, init="data", decay=1.0), torch.randn(30, 3)
        layer(h)
        assert all((row == h).all(dim=1).any() for row in layer.embed)

    def test_saving_between_steps_changes_nothing(self):
        first = quantizer(3, 4)
        batches = torch.randn(6, 9, 3)
        for h in batches[:3]:
            first(h)
        second = quantizer(3, 4)
        second.load_state_dict(first.state_dict())
        for h in batches[3:]:
            first(h)
            second(h)
        assert all(torch.equal(second.state_dict()[key], value) for key, value in first.state_dict().items())


class TestLife:
    """Codebooks live: they start from features when these have settled, move with them, and move codes that fall
    behind.
    """

    def test_the_paper_preset_lives_and_the_official_one_is_what_was_released(self):
        alive = {"init": "data", "init_state": "consistent", "follow": True}
        assert {name: PRESETS["paper"][name] for name in alive} == alive
        assert PRESETS["paper"]["settle_steps"] > 0 and 0 < PRESETS["paper"]["revive_below"] < 1
        layer = FeatureQuantizer(3, 4, preset="official")
        assert (layer.init, layer.init_state, layer.settle_steps) == ("normal", "official", 0)
        assert (layer.revive_below, layer.follow, layer.update_on) == (0, False, "d+g")

    def test_nothing_happens_until_the_features_have_settled(self):
        layer = quantizer(3, 4, settle_steps=3, init="data", weight=1.0)
        before = layer.embed.clone()
        for _ in range(3):
            assert torch.equal(layer.embed, before) and codes_in_use(layer) == {}
            h = torch.randn(2, 3, 5, 5)
            found = layer(h)
            assert found.output is h and not found.loss.any()
        rows = h.movedim(1, -1).reshape(-1, 3)
        assert all((row == rows).all(dim=1).any() for row in layer.embed) and len(layer.embed.unique(dim=0)) == 4
        close(layer.embed_avg, layer.embed * 50 / 4)
        assert layer(h).loss.all() and not torch.equal(layer(h).output, h)

    def test_codes_that_start_come_from_real_and_generated_images(self):
        layer = quantizer(1, 40, settle_steps=1, init="data", accumulate="step")
        layer(torch.rand(40, 1))
        layer(-torch.rand(40, 1))
        layer.update_()
        assert 10 <= int((layer.embed > 0).sum()) <= 30

    def test_the_weight_grows_from_the_start_of_the_codes(self):
        layer, weights = quantizer(3, 4, settle_steps=2, anneal_steps=2, weight=0.5), []
        for _ in range(6):
            weights.append(layer.current_weight)
            layer(torch.randn(6, 3))
        assert weights == [0, 0, 0, 0.25, 0.5, 0.5]

    def test_following_codes_meet_moved_and_stretched_features_as_before(self):
        torch.manual_seed(0)
        options = {"init": "data", "decay": 0.9, "accumulate": "step"}
        follows, stays = (quantizer(6, 16, follow=follow, **options) for follow in (True, False))
        h = torch.randn(400, 6)
        for layer in (follows, stays):
            for _ in range(3):
                layer(h)
                layer.update_()
        expected, moved = follows.eval()(h).indices, 2.5 * h + 7
        follows.train()
        assert (follows(moved).indices == expected).float().mean() > 0.99 and len(expected.unique()) == 16
        assert len(stays(moved).indices.unique()) <= 4
        close(follows.embed_avg / follows.cluster_size[:, None], follows.embed, 1e-3)

    def test_following_compares_the_first_features_of_updates(self):
        """With ``accumulate="step"`` real and generated images meet the same codes, however far they are apart."""
        layer = quantizer(2, 8, init="data", follow=True, accumulate="step", decay=1.0)
        generated, real = torch.randn(50, 2), torch.randn(50, 2) + 3
        layer(generated)
        first = layer.embed.clone()
        layer(real)
        update_codebooks_(layer)
        layer(generated)
        close(layer.embed, first, 1e-5)

    def test_constant_channels(self):
        layer = quantizer(2, 3, init="data", follow=True, accumulate="step")
        for value in (1.0, 2.0, 0.0):
            layer(torch.full((9, 2), value))
            layer.update_()
            assert torch.isfinite(layer.embed).all()

    def test_a_jumping_network_keeps_its_codes_in_use(self):
        """Features that move by their own spread from update to update, as behind spectral norms that settle, for the
        default and without each of its parts.
        """

        def least(**options):
            torch.manual_seed(0)
            layer = FeatureQuantizer(8, 32, settle_steps=5, accumulate="step", **options)
            centres, found = torch.randn(12, 8), []
            for step in range(60):
                for _ in range(2):
                    layer((centres[torch.randint(12, (500,))] + torch.randn(500, 8) / 2) * 0.97**step + step % 7)
                layer.update_()
                found += [float(each) for each in codes_in_use(layer).values()]
            return min(found) / 32

        assert least() >= 0.4
        assert least(follow=False) < 0.25
        assert least(preset="official", update_on="d") < 0.25


class TestWarning:
    def model(self, counts, updates=150):
        model = tiny_biggan_discriminator()
        add_feature_quantizers(model, {"blocks.0.0": FQConfig(8), "blocks.1.0": FQConfig(1)})
        for quantizer in model.codebooks.values():
            quantizer.num_updates.fill_(updates)
            quantizer.last_counts = torch.tensor(counts[: quantizer.num_codes])
        return model

    def test_names_a_dead_codebook_once(self, caplog):
        model, known = self.model([9.0, 0, 0, 0, 0, 0, 0, 0]), set()
        warn_of_dead_codebooks(model, known)
        assert "the codebook at blocks.0.0 is dead: 1.0 of its 8 codes are in use" in caplog.text
        assert "blocks.1.0" not in caplog.text  # its one code is in use
        caplog.clear()
        warn_of_dead_codebooks(model, known)
        assert not caplog.text and known == {"blocks.0.0"}

    def test_says_nothing_of_living_and_of_young_ones(self, caplog):
        warn_of_dead_codebooks(self.model([3.0, 0, 0, 2, 0, 0, 1, 1]), set())
        warn_of_dead_codebooks(self.model([9.0, 0, 0, 0, 0, 0, 0, 0], updates=149), set())
        warn_of_dead_codebooks(tiny_biggan_discriminator(), set())
        assert not caplog.text


class TestBadInput:
    def test_options(self):
        with pytest.raises(ValueError, match="feed is 'x'; allowed are quantized, continuous; .*num_codes 0"):
            FeatureQuantizer(3, 0, feed="x")
        with pytest.raises(ValueError, match="preset"):
            FeatureQuantizer(3, 4, "none")
        with pytest.raises(ValueError, match="phase is 'x'"), phase(quantizer(), "x"):
            pass

    def test_features(self):
        layer = quantizer(4, 3)
        with pytest.raises(ValueError, match=r"shape \(2, 5, 3, 3\); allowed are \(B, 4, H, W\)"):
            layer(torch.randn(2, 5, 3, 3))
        with pytest.raises(TypeError, match="torch.int64"):
            layer(torch.zeros(2, 4, 3, 3, dtype=torch.int64))

    def test_an_empty_batch_moves_nothing(self):
        layer = quantizer(4, 3)
        before = layer.embed.clone()
        found = layer(torch.zeros(0, 4, 3, 3))
        assert found.loss.shape == (0,) and torch.equal(layer.embed, before) and int(layer.num_updates) == 0

    def test_non_finite_features_never_enter(self):
        layer, clean = quantizer(3, 4, embed=torch.eye(4, 3).tolist()), torch.randn(10, 3)
        other = copy.deepcopy(layer)
        broken = torch.cat([clean, torch.tensor([[math.nan, 0, 0], [0, math.inf, 0]])])
        found = layer(broken)
        other(clean)
        close(layer.embed, other.embed)
        assert torch.isfinite(found.loss).all()


class TestConverters:
    def test_official_and_back(self):
        layer = quantizer(4, 6)
        layer(torch.randn(20, 4))
        state = to_official_state(layer)
        assert state["embed"].shape == (4, 6)
        other = quantizer(4, 6)
        other.load_state_dict(from_official_state(state))
        assert torch.equal(other.embed, layer.embed) and torch.equal(other.embed_avg, layer.embed_avg)

    def test_vector_quantize_pytorch_and_back(self):
        layer = quantizer(4, 6)
        state = to_vector_quantize_pytorch(layer)
        assert state["_codebook.embed"].shape == (1, 6, 4)
        other = quantizer(4, 6)
        other.load_state_dict(from_vector_quantize_pytorch(state))
        assert torch.equal(other.embed, layer.embed)


def _train_on_shares(rank, world, options, mutant=False):
    """State of a codebook that saw its process's share of every batch."""
    torch.manual_seed(0)
    features = torch.randn(4, 12, 3)
    layer = FeatureQuantizer(3, 5, **PLAIN | options)
    layer.embed.add_(rank)  # other starts: rank 0's is taken
    if mutant:
        original = torch.distributed.all_reduce
        torch.distributed.all_reduce = lambda tensor, **options: (original(tensor, **options), tensor.div_(world))
    for batch in features:
        layer(batch.chunk(world)[rank])
        update_codebooks_(layer)
    return layer.state_dict()


FOLLOWING = {"follow": True, "accumulate": "step"}


@pytest.mark.parametrize(
    "world, options", [(2, {}), pytest.param(3, {}, marks=pytest.mark.process), (2, FOLLOWING)], ids=str
)
def test_processes_with_shares_equal_one_process_with_all(tmp_path, world, options):
    states = run_processes(_train_on_shares, world, tmp_path, options)
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())
    for key, value in _train_on_shares(0, 1, options).items():
        close(states[0][key], value, 2e-6 if options else 1e-6)


def test_the_mean_instead_of_the_sum_is_noticed(tmp_path):
    state = run_processes(_train_on_shares, 2, tmp_path, {}, True)[0]
    assert not torch.allclose(state["cluster_size"], _train_on_shares(0, 1, {})["cluster_size"], atol=1e-2)


class TestPlaces:
    CASES = [
        (tiny_biggan_discriminator, ("blocks.0.0", "blocks.1.0"), (2, 3, 16, 16)),
        (tiny_discriminator, ("b16", "b8"), (4, 3, 16, 16)),
        (tiny_ugatit_discriminator, ("model.5", "model.8"), (2, 3, 64, 64)),
    ]

    def inputs(self, model, shape):
        labels = torch.arange(shape[0]) % 3 if model.config.get("num_classes") else None
        return (torch.randn(shape), labels) if labels is not None else (torch.randn(shape),)

    @pytest.mark.parametrize("make, paths, shape", CASES)
    def test_continuous_feed_changes_no_logit_and_removal_leaves_no_trace(self, make, paths, shape):
        model = make()
        inputs = self.inputs(model, shape)
        plain, state, config = model(*inputs).logits, set(model.state_dict()), dict(model.config)
        add_feature_quantizers(model, {path: FQConfig(4, preset="official") for path in paths})
        output = model(*inputs)
        assert torch.equal(output.logits, plain)
        assert output.quantization_loss.shape == (shape[0],) and output.quantization_loss.min() > 0
        assert len(model.codebooks) == 2 and set(model.state_dict()) > state
        remove_feature_quantizers(model)
        again = model(*inputs)
        assert torch.equal(again.logits, plain) and again.quantization_loss is None
        assert set(model.state_dict()) == state and {**config, "feature_quantizers": None} == dict(model.config)
        with pytest.raises(ValueError, match="no feature quantizers"):
            remove_feature_quantizers(model)

    @pytest.mark.parametrize("make, paths, shape", CASES)
    def test_quantized_feed_saves_and_restores(self, make, paths, shape, tmp_path):
        model = make()
        options = {"num_codes": 4, "warmup_steps": 0, "anneal_steps": 0, "settle_steps": 0}
        add_feature_quantizers(model, dict.fromkeys(paths, options))
        inputs = self.inputs(model, shape)
        model.train()(*inputs)
        model.eval()
        expected = model(*inputs)
        model.save_pretrained(tmp_path)
        found = type(model).from_pretrained(tmp_path)(*inputs)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.quantization_loss, expected.quantization_loss)

    def test_a_copy_has_quantizers_of_its_own(self):
        model = tiny_biggan_discriminator()
        add_feature_quantizers(model, {"blocks.0.0": FQConfig(4, preset="official")})
        other = copy.deepcopy(model).train()
        before = model.codebooks["blocks/0/0"].embed.clone()
        other(*self.inputs(other, (4, 3, 16, 16)))
        assert torch.equal(model.codebooks["blocks/0/0"].embed, before)
        assert not torch.equal(other.codebooks["blocks/0/0"].embed, before)

    def test_losses_of_places_add_up_and_gradients_reach_the_trunk(self):
        model = tiny_biggan_discriminator()
        inputs = self.inputs(model, (2, 3, 16, 16))
        single = []
        for path in ("blocks.0.0", "blocks.2.0"):
            torch.manual_seed(1)
            add_feature_quantizers(model, {path: FQConfig(4, preset="official", init="kaiming")})
            model.codebooks[path.replace(".", "/")].embed.zero_()
            single.append(model(*inputs).quantization_loss)
            remove_feature_quantizers(model)
        add_feature_quantizers(model, {p: FQConfig(4, preset="official") for p in ("blocks.0.0", "blocks.2.0")})
        for layer in model.codebooks.values():
            layer.embed.zero_()
        loss = model(*inputs).quantization_loss
        close(loss.detach(), (single[0] + single[1]).detach(), 1e-5)
        loss.sum().backward()
        assert model.blocks[0][0].conv1.weight.grad.abs().sum() > 0

    OFFICIAL = {  # preset -> class and name of the discriminator, its options, channels at the places
        "biggan-cifar10": (BigGANDiscriminator, "cifar10", {}, [256] * 4),
        "biggan-cifar100": (BigGANDiscriminator, "cifar100", {}, [256] * 4),
        "tac-gan-cifar100": (BigGANDiscriminator, "cifar100-tac", {}, [256] * 4),
        "biggan-imagenet-64": (BigGANDiscriminator, "imagenet-64", {}, [256]),
        "biggan-imagenet-128": (BigGANDiscriminator, "imagenet-128", {"channel_base": 64}, [64, 128, 256, 512]),
        "stylegan2-ffhq": (StyleGAN2Discriminator, "ffhq-256-small", {}, [512, 512]),
        "ugatit-global": (UGATITDiscriminator, "global", {}, [128, 256, 512]),
    }

    @pytest.mark.parametrize("preset", sorted(FQ_PRESETS))
    def test_official_places_fit_the_official_discriminators(self, preset):
        cls, name, options, dims = self.OFFICIAL[preset]
        with torch.device("meta"):
            model = cls.from_preset(name, **options)
            add_feature_quantizers(model, preset)
        assert [layer.dim for layer in model.codebooks.values()] == dims

    def test_wrong_places(self):
        model = tiny_biggan_discriminator()
        with pytest.raises(ValueError, match="no modules 'blocks.9', 'x'"):
            add_feature_quantizers(model, {"blocks.9": FQConfig(4), "x": FQConfig(4)})
        with pytest.raises(ValueError, match="no preset 'y'"):
            add_feature_quantizers(model, "y")
        add_feature_quantizers(model, {"blocks.0.0": FQConfig(4)})
        with pytest.raises(ValueError, match="already"):
            add_feature_quantizers(model, {"blocks.0.0": FQConfig(4)})


def test_codes_in_use_of_a_model():
    model = tiny_biggan_discriminator()
    add_feature_quantizers(model, dict.fromkeys(("blocks.0.0", "blocks.1.0"), FQConfig(4)))
    assert codes_in_use(model) == {}
    model.codebooks["blocks/0/0"].last_counts = torch.ones(4)
    model.codebooks["blocks/1/0"].last_counts = torch.tensor([3.0, 0.0, 0.0, 0.0])
    found = {name: float(value) for name, value in codes_in_use(model).items()}
    names = ("codes_in_use", "codes_in_use/blocks.0.0", "codes_in_use/blocks.1.0")
    assert found == pytest.approx(dict(zip(names, (2.5, 4, 1))))
    both = codes_in_use(nn.ModuleDict({"a": model, "b": copy.deepcopy(model)}))
    assert "codes_in_use/b.blocks.1.0" in both
