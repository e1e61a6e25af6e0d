# SPDX-License-Identifier: Apache-2.0
"""Distillation losses: the specification's numbers and invariants."""

import math

import pytest
import torch
from torch import nn

from hf_ganzip.training.augment import AdaptiveAugment, augment, diff_augment
from hf_ganzip.training.distillation import (
    latent_directions,
    path_lengths,
    random_shifts,
    relation_loss,
    rgb_distance,
    sanitize_gradients_,
)
from hf_ganzip.training.perceptual import FeatureDistance, LPIPSDistance

from ..conftest import tiny_generator


def test_relation_loss_by_hand():
    """Two features, then those of the shifted styles; twice, in two scales."""
    student = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 1]]).view(4, 1, 2).requires_grad_(True)
    teacher = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]).view(4, 2, 1).requires_grad_(True)
    loss = relation_loss([student, student * 2], [teacher, teacher])
    assert float(loss.detach()) == pytest.approx(2 * 0.0313773, abs=1e-6)
    loss.backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    half = relation_loss([student.detach().bfloat16()], [teacher])
    assert half.dtype == torch.float32 and float(half) == pytest.approx(0.0313773, abs=1e-6)


def test_relations_within_groups_do_not_depend_on_the_batch():
    student, teacher = torch.randn(16, 6), torch.randn(16, 6)
    whole = relation_loss([student], [teacher], relation_batch=4)
    halves = [
        relation_loss([student[rows]], [teacher[rows]], relation_batch=4)
        for rows in (torch.tensor([0, 1, 2, 3, 8, 9, 10, 11]), torch.tensor([4, 5, 6, 7, 12, 13, 14, 15]))
    ]
    assert float(whole) == pytest.approx(float(sum(halves)) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="no multiple"):
        relation_loss([student], [teacher], relation_batch=3)


def test_rgb_distance_and_masks():
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    half = torch.zeros(2, 1, 4, 4)
    half[..., :2] = 1
    for mask, columns in ((None, 4), (half, 2)):
        expected = (student - teacher).abs()[..., :columns].sum() / student.numel()
        assert float(rgb_distance(student, teacher, mask)) == pytest.approx(float(expected))


def test_directions_are_leading_eigenvectors():
    model = tiny_generator()
    groups = (("synthesis.b8.conv0", "synthesis.b8.conv1"), ("synthesis.b16.conv0",))
    directions = latent_directions(model, groups, per_group=3)
    assert directions.shape == (6, 8)
    assert torch.allclose(directions.norm(dim=1), torch.ones(6))
    rows = torch.cat([model.get_submodule(name).affine.weight for name in groups[0]]).detach().double()
    rows = nn.functional.normalize(rows, dim=1)
    energy = (rows @ directions[:3].T.double()).square().sum(dim=0)
    torch.testing.assert_close(energy, torch.linalg.eigvalsh(rows.T @ rows).flip(0)[:3], rtol=1e-5, atol=1e-9)


def test_shifts():
    directions = torch.eye(3)
    shifts = random_shifts(directions, torch.tensor([1.0, -2.0]), torch.tensor([2, 0]), 5.0)
    assert shifts.tolist() == [[0, 0, 5], [-10, 0, 0]]


def test_path_lengths_of_a_linear_map():
    ws = torch.randn(3, 4, 5, requires_grad=True)
    images = ws[:, :, :, None].repeat(1, 1, 1, 2)[:, :4]  # (3, 4, 5, 2): every style value goes to two pixels
    noise = torch.randn(images.shape)
    lengths = path_lengths(images, ws, noise)
    expected = (noise / math.sqrt(10)).sum(dim=3).square().sum(dim=2).mean(dim=1).sqrt()
    torch.testing.assert_close(lengths, expected)


def test_sanitized_gradients():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    sanitize_gradients_([parameter, nn.Parameter(torch.zeros(1))])
    assert parameter.grad.tolist() == [0, 1e5, -1e5, 2]


def random(seed=0):
    return torch.Generator().manual_seed(seed)


class TestAugment:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_shape_and_gradients_and_never_is_the_identity(self, channels):
        images = torch.rand(4, channels, 16, 16, requires_grad=True)
        found = augment(images, 1.0, random())
        assert found.shape == images.shape and torch.isfinite(found).all() and not torch.equal(found, images)
        found.sum().backward()
        assert images.grad.abs().sum() > 0
        assert augment(images, 0.0, random()) is images

    def test_parts_of_a_step_are_the_step(self):
        images = torch.rand(6, 3, 8, 8)
        whole = augment(images, 0.8, random())
        parts = [augment(images[i : i + 2], 0.8, random(), i, 6) for i in (0, 2, 4)]
        torch.testing.assert_close(torch.cat(parts), whole)

    def test_the_share_of_changed_images(self):
        images = torch.rand(2000, 1, 4, 4)
        found = augment(images, 0.02, random())
        changed = (found - images).abs().flatten(1).amax(dim=1) > 1e-4
        transformations = 9  # mirror and turns change only a part of what they are drawn for
        assert 0.5 * 0.02 * transformations < float(changed.float().mean()) < 0.02 * (transformations + 1)

    def test_the_probability_follows_the_signs(self):
        adaptive = AdaptiveAugment(0.6, images=1000)
        adaptive.update(0.9, 100)
        assert adaptive.probability == pytest.approx(0.1)
        adaptive.update(0.1, 300)
        assert adaptive.probability == 0
        for _ in range(20):
            adaptive.update(1.0, 100)
        assert adaptive.probability == 1
        other = AdaptiveAugment()
        other.load_state_dict(adaptive.state_dict())
        assert other.probability == 1


class TestDiffAugment:
    def test_nothing_and_unknown_names(self):
        images = torch.rand(2, 3, 8, 8)
        assert diff_augment(images, "", torch.Generator()) is images
        with pytest.raises(ValueError, match="augmentation"):
            diff_augment(images, "colour", torch.Generator())

    @pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
    def test_shape_gradients_and_seeds(self, policy):
        images = torch.rand(4, 3, 16, 16, requires_grad=True)
        found = [diff_augment(images, policy, random(seed)) for seed in (0, 0, 1)]
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
        assert found[0].shape == images.shape
        found[0].square().sum().backward()
        assert images.grad.abs().sum() > 0

    def test_translation_moves_whole_pixels_and_fills_with_zeros(self):
        images = torch.ones(200, 1, 16, 16)
        images[:, :, 8, 8] = 5
        found = diff_augment(images, "translation", random())
        rows, columns = (found == 5).nonzero()[:, 2], (found == 5).nonzero()[:, 3]
        assert len(rows) == 200 and int(rows.min()) == 6 and int(rows.max()) == 10 and len(columns.unique()) == 5
        assert (found[rows == 10][:, :, :2] == 0).all()

    def test_cutout_removes_a_square_of_half_the_side(self):
        found = diff_augment(torch.ones(300, 1, 16, 16), "cutout", random())
        removed = (found == 0).flatten(1).sum(dim=1)
        assert int(removed.max()) == 64 and int(removed.min()) >= 16

    def test_color_keeps_the_order_of_pixels(self):
        images = torch.rand(5, 1, 4, 4)
        found = diff_augment(images, "color", random())
        assert torch.equal(images.flatten(1).argsort(dim=1), found.flatten(1).argsort(dim=1))


def test_feature_distance():
    from hf_ganzip.models.feature_network import FeatureNetwork

    distance = FeatureDistance(FeatureNetwork(channels=(4, 8), embedding_dim=16))
    images = (torch.rand(3, 1, 32, 32) * 2 - 1).requires_grad_(True)
    assert distance(images, images).abs().max() < 1e-6
    values = distance(images, torch.rand(3, 1, 32, 32))
    assert values.shape == (3,) and (values >= 0).all() and (values <= 4).all()
    values.sum().backward()
    assert images.grad is not None and all(p.grad is None for p in distance.parameters())


def test_lpips_without_weights(tmp_path):
    pytest.importorskip("lpips")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        LPIPSDistance(tmp_path / "none.safetensors")
