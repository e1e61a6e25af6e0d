# SPDX-License-Identifier: Apache-2.0
"""Scores of channels of generators: every criterion on every family, what moves them, masks of faces."""

import pytest
import torch

from hf_ganzip.core.record import recorded_steps
from hf_ganzip.pruning import CRITERIA, PruneConfig, prune_
from hf_ganzip.pruning.criteria.content_aware import FaceParser
from hf_ganzip.pruning.rules import rule_of

from ..conftest import randomized, tiny_generator, tiny_stylegan3
from .conftest import GENERATORS


QUICK = {
    "dcp": {"samples": 4, "batch_size": 2, "directions": 3, "style_samples": 50, "progress": False},
    "content_aware": {"samples": 4, "batch_size": 2, "progress": False},
    "magnitude": {"samples": 8},
    "gan_slimming": {"samples": 8},
}


def scored(model, criterion, **options):
    """Scores of the channels of a model, by set."""
    return CRITERIA[criterion](**QUICK[criterion] | options)(model, rule_of(model).sets(model))


STYLES = ("dcp", "gan_slimming")
DIFFUSION = ("diff_prune", "taylor")


@pytest.mark.parametrize("name", sorted(GENERATORS))
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_scores(name, criterion):
    model = randomized(GENERATORS[name]())
    sets = rule_of(model).sets(model)
    made = CRITERIA[criterion](**QUICK.get(criterion, {}))
    if "biggan" in name and criterion in STYLES or criterion in DIFFUSION:
        with pytest.raises(ValueError, match="diffusion UNets; .* is none" if criterion in DIFFUSION else criterion):
            made(model, sets)
        return
    scores = made(model, sets)
    again = CRITERIA[criterion](**QUICK.get(criterion, {}))(model, sets)
    for channels in sets:
        score = scores[channels.name]
        assert score.shape == (channels.width,) and torch.isfinite(score).all() and (score >= 0).all()
        assert torch.equal(score, again[channels.name])
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


class TestCriteria:
    @pytest.mark.parametrize("criterion", ["magnitude", "content_aware"])
    def test_a_zeroed_channel_scores_lowest(self, criterion):
        model = randomized(tiny_generator())
        with torch.no_grad():
            model.synthesis.b8.conv1.weight[:, 3] = 0
            model.synthesis.b8.conv0.weight[3] = 0
            model.synthesis.b8.conv0.bias[3] = 0
        score = scored(model, criterion)["synthesis.b8.conv0"]
        assert int(score.argmin()) == 3

    @pytest.mark.parametrize("criterion", ["magnitude", "gan_slimming"])
    def test_permuting_channels_permutes_scores(self, criterion):
        model = randomized(tiny_generator())
        before = scored(model, criterion)["synthesis.b8.conv0"]
        order = torch.randperm(16)
        with torch.no_grad():
            b8 = model.synthesis.b8
            for tensor in (b8.conv0.weight, b8.conv0.bias, b8.conv1.affine.weight, b8.conv1.affine.bias):
                tensor.copy_(tensor[order])
            b8.conv1.weight.copy_(b8.conv1.weight[:, order])
        after = scored(model, criterion)["synthesis.b8.conv0"]
        torch.testing.assert_close(after, before[order], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "criterion, options",
        [("dcp", {"directions": 1}), ("content_aware", {"mask": lambda images: torch.zeros_like(images[:, :1])})],
    )
    def test_one_direction_has_no_variance_and_what_is_masked_does_not_count(self, criterion, options):
        scores = scored(randomized(tiny_generator()), criterion, **options)
        assert all(float(score.max()) == 0 for score in scores.values())

    def test_no_step_is_refused(self):
        with pytest.raises(ValueError, match="strength is 0"):
            scored(tiny_generator(), "dcp", strength=0.0)

    @pytest.mark.parametrize("noise_mode", ["random", "const"])
    @pytest.mark.parametrize("make", [tiny_generator, tiny_stylegan3])
    def test_directions_that_share_a_pass_score_like_one_after_the_other(self, make, noise_mode):
        """Both images of a direction, in the order of its draws, by the model itself."""
        model = randomized(make(num_classes=0)).eval()
        sets, options = rule_of(model).sets(model), QUICK["dcp"] | {"samples": 2, "noise_mode": noise_mode}
        found = CRITERIA["dcp"](**options)(model, sets)
        criterion, generator = CRITERIA["dcp"](**options), torch.Generator().manual_seed(0)
        axes, share = criterion._axes(model, generator)
        weights = [model.get_submodule(channels.reader).weight for channels in sets]
        ws = model.mapping(model.draw_latents(2, generator)).detach()
        draw = {"noise_mode": noise_mode, "generator": generator}
        scores = []
        for index in torch.multinomial(share, 3, replacement=True, generator=generator).tolist():
            moved = model.synthesize(ws + 5 * axes[index], **draw).detach()
            gradients = torch.autograd.grad((moved - model.synthesize(ws, **draw)).abs().mean(), weights)
            scores.append(
                [each.abs().flatten(2).mean(dim=(0, 2)) if each.ndim > 2 else each.abs().mean(0) for each in gradients]
            )
        for channels, each in zip(sets, zip(*scores)):
            torch.testing.assert_close(
                found[channels.name], torch.stack(each).var(dim=0, correction=0), rtol=1e-3, atol=0
            )

    def test_dcp_takes_fewer_samples_than_the_papers_by_default(self):
        """5000 took 155 s on the bundled generator; docs/pruning.md has what fewer cost in rank."""
        assert CRITERIA["dcp"]().samples // CRITERIA["dcp"]().batch_size == 70


class TestFaceParser:
    def parser(self, folder, names):
        transformers = pytest.importorskip("transformers")
        sizes = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [4], "hidden_sizes": [8], "patch_sizes": [7]}
        sizes |= {"strides": [8], "num_attention_heads": [1], "mlp_ratios": [2], "decoder_hidden_size": 8}
        config = transformers.SegformerConfig(**sizes, id2label=dict(enumerate(names)))
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
        return FaceParser(str(folder))

    def test_masks(self, tmp_path):
        parser = self.parser(tmp_path, ["background", "skin", "cloth"])
        assert parser.no_content.tolist() == [0, 2]
        masks = parser(torch.rand(2, 3, 16, 16) * 2 - 1)
        assert masks.shape == (2, 1, 16, 16) and masks.dtype == torch.bool
        bias = parser.model.decode_head.classifier.bias
        for index, content in ((0, False), (1, True), (2, False)):
            with torch.no_grad():
                bias[:] = 0
                bias[index] = 1e6
            assert bool(parser(torch.zeros(1, 3, 8, 8)).all()) == content

    def test_by_name(self, tmp_path):
        self.parser(tmp_path, [f"label_{i}" for i in range(19)])
        model = randomized(tiny_generator())
        options = QUICK["content_aware"] | {"mask": str(tmp_path)}
        prune_(model, PruneConfig("content_aware", 0.5, criterion_options=options))
        assert recorded_steps(model)[0]["options"]["criterion_options"]["mask"] == str(tmp_path)
