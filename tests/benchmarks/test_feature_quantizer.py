# SPDX-License-Identifier: Apache-2.0
import torch

from benchmarks.feature_quantizer import OneHot
from hf_ganzip.training.feature_quantizer import FeatureQuantizer


def test_the_formulation_compared_with_does_the_same():
    ours, other = (
        FeatureQuantizer(3, 5, preset="official", feed="quantized", warmup_steps=0, anneal_steps=0),
        OneHot(3, 5),
    )
    other.embed.copy_(ours.embed.T)
    other.mean.copy_(ours.embed_avg.T)
    other.size.copy_(ours.cluster_size)
    ours.decay = other.decay
    for _ in range(3):
        h = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(ours(h).output, other(h)[0])
        torch.testing.assert_close(ours.embed, other.embed.T, rtol=1e-4, atol=1e-5)
