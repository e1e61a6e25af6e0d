# SPDX-License-Identifier: Apache-2.0
"""A codebook that matches a random share of the positions."""

import pytest
import torch

from hf_ganzip.training.feature_quantizer import FeatureQuantizer


def quantizer(share: float, feed: str = "quantized", **options) -> FeatureQuantizer:
    torch.manual_seed(0)
    found = FeatureQuantizer(
        6, 12, feed=feed, share=share, warmup_steps=0, settle_steps=0, anneal_steps=0, init="normal", **options
    )
    return found


@pytest.mark.parametrize("shape", [(5, 6, 4, 8), (5, 32, 6), (160, 6)])
@pytest.mark.parametrize("share, matched", [(0.25, 8), (0.01, 1), (0.99, 32), (1.0, 32)])
def test_as_many_positions_of_every_sample_get_their_nearest_code(shape, share, matched):
    partly, wholly = quantizer(share), quantizer(1.0)
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
    errors = (rows - quantizer(1.0).embed[found.indices[chosen]]).square().view(len(indices), -1).mean(dim=1)
    torch.testing.assert_close(found.loss, 0.25 * errors)


def test_only_the_matched_positions_move_the_codes_and_get_gradients_of_the_loss():
    h = torch.randn(3, 6, 4, 4).requires_grad_()
    partly = quantizer(0.25, "continuous")
    found = partly(h)
    assert float(partly.last_counts.sum()) == 12 and int(found.codes_used) <= 12
    assert found.output is h
    found.loss.sum().backward()
    assert torch.equal((h.grad != 0).any(dim=1), found.indices >= 0)
    torch.manual_seed(1)
    assert not torch.equal(partly(h).indices >= 0, found.indices >= 0)  # drawn anew


def test_the_mean_loss_is_that_of_all_positions_and_evaluation_takes_all():
    partly = quantizer(0.25, "continuous", decay=1.0, revive_below=0.0)
    h = torch.randn(2, 6, 8, 8)
    expected = quantizer(1.0, "continuous")(h).loss
    mean = torch.stack([partly(h).loss for _ in range(400)]).mean(dim=0)
    torch.testing.assert_close(mean, expected, rtol=0.03, atol=0)
    found = partly.eval()(h)
    assert (found.indices >= 0).all()
    torch.testing.assert_close(found.loss, expected)


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 0, 6), (0, 6)])
def test_nothing_to_match(shape):
    found = quantizer(0.5)(torch.zeros(shape))
    assert found.output.shape == shape and not found.indices.numel()


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_other_shares_are_refused(share):
    with pytest.raises(ValueError, match="share is .*allowed is above 0, to 1"):
        quantizer(share)
