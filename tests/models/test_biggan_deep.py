# SPDX-License-Identifier: Apache-2.0
"""BigGAN-deep: the official network's values, its statistics rows, and official sizes."""

import pytest
import torch

from hf_ganzip.checkpoints.biggan_deep import convert_biggan_deep
from hf_ganzip.models import BigGANDeepGenerator
from hf_ganzip.models.biggan_deep import statistics_weights

from ..conftest import tiny_biggan_deep
from .golden import close, load_golden


pytestmark = pytest.mark.processor


@pytest.mark.parametrize("truncation", [0.4, 0.43, 1.0])
@torch.no_grad()
def test_official_values(truncation):
    options, weights, io = load_golden("biggan_deep_64")
    generator = convert_biggan_deep(options["config"], weights)
    close(generator(io["z"], io["c"], truncation_psi=truncation).sample, io[f"img_trunc_{truncation}"])


@pytest.mark.parametrize("truncation, row", [(0.405, 20.75), (0.14, 8), (0.58, 28), (0.4, 20), (1.0, 50), (0.02, 1)])
def test_official_rows_repeat_the_published_code(truncation, row):
    """Rows filled with their index: reversed weights between rows, and rounding of some grid values to a neighbour."""
    assert sum(i * weight for i, weight in statistics_weights(truncation, 51, "official")) == pytest.approx(row)


@pytest.mark.parametrize("interpolation", ["official", "corrected"])
def test_no_row_lies_beyond_the_last(interpolation):
    """Among 2 to 300 rows are 50, 99, 104, 108 ..., for which 1 / (1 / (n - 1)) rounds above n - 1."""
    for count in range(2, 300):
        rows = statistics_weights(1.0, count, interpolation)
        assert all(0 <= row < count for row, _ in rows), count
        assert sum(weight for _, weight in rows) == pytest.approx(1)


@pytest.mark.parametrize("truncation", [0.405, 0.14, 0.28, 0.56, 0.58, 0.94, 0.4, 1.0, 0.001])
def test_corrected_rows_interpolate_linearly(truncation):
    rows = statistics_weights(truncation, 51, "corrected")
    assert sum(i * weight for i, weight in rows) == pytest.approx(truncation * 50)
    assert sum(weight for _, weight in rows) == pytest.approx(1)


@pytest.mark.parametrize("truncation", [0, -0.1, 1.01])
def test_truncation_is_checked(truncation):
    generator = tiny_biggan_deep()
    with pytest.raises(ValueError, match="0 < truncation_psi <= 1"):
        generator(torch.zeros(1, 6), torch.tensor([0]), truncation_psi=truncation)


@torch.no_grad()
def test_statistics_follow_the_truncation():
    generator = tiny_biggan_deep(interpolation="corrected")
    z, labels = torch.randn(2, 6), torch.tensor([0, 1])
    first, second = (generator(z, labels, truncation_psi=psi).sample for psi in (1.0, 0.5))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("preset, millions", [("imagenet-128", 50.4), ("imagenet-256", 55.9), ("imagenet-512", 56.2)])
def test_official_parameter_counts(preset, millions):
    """The published layer has as many outputs as inputs and drops all but three; ours has three."""
    with torch.device("meta"):
        generator = BigGANDeepGenerator.from_preset(preset)
    inputs = generator.config.channels[-1]
    dropped = (inputs - 3) * (9 * inputs + 1)
    assert (generator.num_parameters() + dropped) / 1e6 == pytest.approx(millions, abs=0.05)


def test_latents_are_cut_at_two_standard_deviations():
    generator = tiny_biggan_deep(z_dim=500)
    z = generator.draw_latents(200, torch.Generator().manual_seed(0), truncation_psi=0.5)
    assert z.shape == (200, 500) and z.abs().max() <= 1.0
    assert z.std() == pytest.approx(0.5 * 0.8796, abs=2e-3) and abs(z.mean()) < 2e-3  # of N(0, 1) cut at 2: .8796


def test_widths_must_not_grow():
    with pytest.raises(ValueError, match="do not grow"):
        tiny_biggan_deep(channels=(16, 16, 32))
