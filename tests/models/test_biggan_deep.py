# SPDX-License-Identifier: Apache-2.0
"""BigGAN-deep: its statistics rows and latents. The official network's values: tests/checkpoints."""

import pytest
import torch

from hf_ganzip.models.biggan_deep import statistics_weights

from ..conftest import tiny_biggan_deep


pytestmark = pytest.mark.processor


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


def test_latents_are_cut_at_two_standard_deviations():
    generator = tiny_biggan_deep(z_dim=500)
    z = generator.draw_latents(200, torch.Generator().manual_seed(0), truncation_psi=0.5)
    assert z.shape == (200, 500) and z.abs().max() <= 1.0
    assert z.std() == pytest.approx(0.5 * 0.8796, abs=2e-3) and abs(z.mean()) < 2e-3  # of N(0, 1) cut at 2: .8796
