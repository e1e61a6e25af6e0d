# SPDX-License-Identifier: Apache-2.0
"""Codebooks over many updates: schedules, phases, codes that start, follow and are revived, and dead ones."""

import copy

import pytest
import torch
from torch import nn

from hf_ganzip.training.feature_quantization import (
    FQConfig,
    add_feature_quantizers,
    codes_in_use,
    phase,
    update_codebooks_,
    warn_of_dead_codebooks,
)
from hf_ganzip.training.feature_quantizer import PRESETS, FeatureQuantizer

from ..conftest import tiny_biggan_discriminator
from .conftest import near, quantizer


def are_rows_of(codes, features):
    """Whether each of the codes (K, C) is one of the features (N, C)."""
    return all((code == features).all(dim=1).any() for code in codes)


class TestSchedules:
    @pytest.mark.parametrize(
        "options, expected",
        [
            ({"warmup_steps": 2, "anneal_steps": 4}, [0, 0.125, 0.25, 0.375, 0.5, 0.5]),
            ({"settle_steps": 2, "anneal_steps": 2}, [0, 0, 0, 0.25, 0.5, 0.5]),  # from the start of the codes
        ],
    )
    def test_the_weight_grows_and_codes_go_on_after_so_many_updates(self, options, expected):
        layer, weights, continuous = quantizer(3, 4, weight=0.5, **options), [], []
        for h in torch.randn(6, 6, 3):
            weights.append(layer.current_weight)
            continuous.append(layer(h).output is h)
        assert weights == expected and continuous == [True, True, False, False, False, False]

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
        near(parts.embed, whole.embed)
        assert not torch.allclose(separate.embed, whole.embed)
        assert int(parts.num_updates) == 1 and int(separate.num_updates) == 3

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
        assert are_rows_of(revived, seen)
        near(layer.embed_avg / layer.cluster_size[:, None], layer.embed, 1e-3)

    def test_codes_from_the_data(self):
        layer, h = quantizer(3, 4, init="data", decay=1.0), torch.randn(30, 3)
        layer(h)
        assert are_rows_of(layer.embed, h)


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
        assert are_rows_of(layer.embed, rows) and len(layer.embed.unique(dim=0)) == 4
        near(layer.embed_avg, layer.embed * 50 / 4)
        assert layer(h).loss.all() and not torch.equal(layer(h).output, h)

    def test_codes_that_start_come_from_real_and_generated_images(self):
        layer = quantizer(1, 40, settle_steps=1, init="data", accumulate="step")
        layer(torch.rand(40, 1))
        layer(-torch.rand(40, 1))
        layer.update_()
        assert 10 <= int((layer.embed > 0).sum()) <= 30

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
        near(follows.embed_avg / follows.cluster_size[:, None], follows.embed, 1e-3)

    def test_following_compares_the_first_features_of_updates(self):
        """With ``accumulate="step"`` real and generated images meet the same codes, however far they are apart."""
        layer = quantizer(2, 8, init="data", follow=True, accumulate="step", decay=1.0)
        generated, real = torch.randn(50, 2), torch.randn(50, 2) + 3
        layer(generated)
        first = layer.embed.clone()
        layer(real)
        update_codebooks_(layer)
        layer(generated)
        near(layer.embed, first, 1e-5)

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
        for layer in model.codebooks.values():
            layer.num_updates.fill_(updates)
            layer.last_counts = torch.tensor(counts[: layer.num_codes])
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
