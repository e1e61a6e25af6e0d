# SPDX-License-Identifier: Apache-2.0
"""Figures of compare with their intervals: means, distributions, paired differences."""

import math

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.evaluation.comparing.measured_pairs import distribution, psnr, squared_errors
from hf_ganzip.evaluation.evaluate import measure
from hf_ganzip.metrics import frechet_distance, kernel_distance
from hf_ganzip.metrics.frechet import frechet_to
from hf_ganzip.metrics.resampling import halves, interval_by_halves, interval_of_mean, resamples

from .conftest import QUICK, figures, quantized


pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.mark.process
def test_intervals_hold_the_figure_and_shrink_with_more_images():
    original = gz.load_model("stylegan2-fashion-mnist")
    candidate = quantized(original, 3)
    few, many = (
        gz.compare(original, candidate, **QUICK | {"num_images": count, "batch_size": 40, "bootstrap": 60})
        for count in (20, 120)
    )
    for name in figures(many):
        for report in (few, many):
            found = report[name].candidate
            assert found.low <= found.value <= found.high, name
    for name in ("psnr", "ssim", "feature_distance", "frechet_distance", "lsh_precision", "lsh_knn_precision"):
        widths = [report[name].candidate.high - report[name].candidate.low for report in (few, many)]
        assert 0 < widths[1] < widths[0], name
    bare = gz.compare(original, candidate, **QUICK | {"bootstrap": 0})
    assert all(each.candidate.low is None for each in bare.figures)


class TestIntervals:
    def test_of_a_mean_is_what_the_normal_distribution_says(self):
        values = torch.randn(400, dtype=torch.float64)
        found = interval_of_mean(values, resamples(400, 2000))
        expected = 2 * 1.96 * float(values.std()) / 20
        assert found.high - found.low == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize("metric", ["knn_precision_recall", "frechet_distance"])
    def test_of_distributions_have_the_spread_of_repeated_draws(self, metric):
        """Recall too, of which most uncertainty lies in the generated samples."""
        real = torch.randn(400, 8)
        sets = [0.8 * torch.randn(80, 8) + 0.3 for _ in range(40)]
        options = {"seed": 0, "progress": False}
        repeated = [distribution(metric, real, each, each, drawn=halves(80, 0), **options) for each in sets]
        measured = [distribution(metric, real, each, each, drawn=halves(80, 60), **options) for each in sets[:4]]
        for name in repeated[0]:
            spread = torch.tensor([each[name]["candidate"].value for each in repeated]).std()
            found = [each[name]["candidate"] for each in measured]
            estimate = sum(each.high - each.low for each in found) / len(found) / (2 * 1.96)
            assert 0.6 < estimate / spread < 1.6, name

    @pytest.mark.parametrize(
        "metric", ["knn_precision_recall", "frechet_distance", "lsh_precision_recall", "density_coverage"]
    )
    def test_values_are_those_of_evaluate(self, metric):
        real, generated = torch.randn(300, 8), torch.randn(200, 8)
        (expected,) = measure(real=real, generated=generated, metrics=[metric], seed=3).values()
        found = distribution(metric, None, real, generated, drawn=halves(200, 0), seed=3, progress=False)
        values = {name: each["candidate"].value for name, each in found.items()}
        assert values and values == pytest.approx({name: expected[name] for name in values}, rel=1e-6)

    def test_kernel_distance_takes_all_images(self):
        real, generated = torch.randn(40, 8), torch.randn(20, 8)
        expected = kernel_distance(real=real, generated=generated, subset_size=None)["kernel_distance"]
        found = distribution("kernel_distance", None, real, generated, drawn=halves(20, 20), seed=0, progress=False)
        assert found["kernel_distance"]["candidate"].value == pytest.approx(expected)
        assert found["kernel_distance"]["candidate"].low < expected

    def test_differences_are_paired(self):
        """Both sides on the same seeds: what they share cancels."""
        real, original = (torch.randn(count, 8) for count in (300, 100))
        candidate = original + 0.05 * torch.randn(100, 8)
        options = {"drawn": halves(100, 60), "seed": 0, "progress": False}
        found = distribution("frechet_distance", real, original, candidate, **options)["frechet_distance"]
        assert found["difference"].value == found["candidate"].value - found["original"].value
        assert found["difference"].low < found["difference"].value < found["difference"].high
        width = {side: each.high - each.low for side, each in found.items()}
        assert width["difference"] < width["candidate"] / 2

    def test_end_at_the_bounds(self):
        found = interval_by_halves(0.95, torch.linspace(0.5, 0.9, 41), 0.0, 1.0)
        assert found.high == 1.0 and found.low == pytest.approx(0.95 - 0.19, abs=1e-4)

    def test_halves_have_no_sample_twice(self):
        found = halves(9, 50, seed=3)
        assert found.shape == (50, 4) and all(len(set(row)) == 4 for row in found.tolist())
        assert not torch.equal(found, halves(9, 50, seed=4))

    @pytest.mark.parametrize("count", [5, 30])
    def test_distances_to_one_set_are_those_of_both(self, count):
        """With fewer and with more samples than dimensions."""
        real, generated = torch.randn(50, 12, dtype=torch.float64), torch.randn(count, 12, dtype=torch.float64)
        expected = frechet_distance(real=real, generated=generated, allow_singular=True)["frechet_distance"]
        assert frechet_to(real)(generated) == pytest.approx(expected, rel=1e-6)

    def test_psnr_by_hand(self):
        black, grey = (torch.full((2, 1, 4, 4), value, dtype=torch.uint8) for value in (0, 51))
        found = psnr(squared_errors(black, grey), resamples(2, 10))
        assert found.value == pytest.approx(20 * math.log10(5)) and found.low == found.high == found.value
