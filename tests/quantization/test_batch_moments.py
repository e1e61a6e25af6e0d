# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.quantization.methods.batch_moments import moment_error

from ..conftest import tiny_generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 5), (16, 3, 4, 4), (1, 5), (4, 6, 3)])
def test_only_the_distribution_counts(shape):
    batch = normal(*shape)
    assert moment_error(batch.flip(0), batch) < 1e-9
    assert moment_error(0.5 * batch, batch) > 0.1 < moment_error(batch + 1, batch)
    torch.testing.assert_close(
        moment_error(3 * batch, 3 * batch.roll(1, 0) + 3), moment_error(batch, batch.roll(1, 0) + 1)
    )


def test_pictures_that_vary_less_cost_though_their_squared_error_is_the_least():
    """Half of what decides a picture is lost: the mean over it has the least squared error, another draw the right
    distribution.
    """
    known, lost, other = normal(400, 8, seed=0), normal(400, 8, seed=1), normal(400, 8, seed=2)
    target, mean, draw = known + lost, known, known + other
    assert (mean - target).square().mean() < 0.6 * (draw - target).square().mean()
    assert moment_error(mean, target) > 5 * moment_error(draw, target)


def test_what_does_not_vary_has_finite_gradients():
    batch = torch.ones(4, 3, 2, 2, requires_grad=True)
    moment_error(batch, torch.full((4, 3, 2, 2), 2.0)).backward()
    assert torch.isfinite(batch.grad).all() and batch.grad.abs().sum() > 0


@pytest.mark.process
def test_the_weight_of_latent_distill_brings_the_distribution_nearer():
    z, labels = normal(64, 8, seed=9), torch.arange(64) % 3

    def error(weight):
        torch.manual_seed(0)
        model = tiny_generator()
        with torch.no_grad():
            full = model(z, labels, noise_mode="const", return_dict=False)[0]
        options = {"steps": 25, "batch_size": 16, "base": "codebook", "progress": False, "moment_weight": weight}
        gz.quantize_(model, gz.QuantizeConfig("latent_distill", bits=2, granularity="channel", method_options=options))
        with torch.no_grad():
            return float(moment_error(model(z, labels, noise_mode="const", return_dict=False)[0], full))

    assert error(10.0) < error(0.0)
