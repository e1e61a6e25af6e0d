# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ganzip.metrics import frechet_distance


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["overlap", "collapsed"])
def test_golden_values_of_torch_fidelity(name):
    features = load_file(GOLDEN / "metrics.io.safetensors")
    expected = json.loads((GOLDEN / "metrics.json").read_text())[name]["fid"]
    result = frechet_distance(real=features[f"{name}.real"], generated=features[f"{name}.fake"])
    assert result["frechet_distance"] == pytest.approx(expected, rel=1e-6)


def test_closed_form_for_axis_aligned_gaussians():
    x = torch.randn(2000, 3, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)  # exactly white
    scale, shift = torch.tensor([2.0, 1, 0.5], dtype=torch.float64), torch.tensor([1.0, 0, -2], dtype=torch.float64)
    result = frechet_distance(real=x, generated=x * scale + shift)
    assert result["frechet_distance"] == pytest.approx(float((scale - 1).square().sum() + shift.square().sum()))
    swapped = frechet_distance(real=x * scale + shift, generated=x)
    assert swapped["frechet_distance"] == pytest.approx(result["frechet_distance"])


def test_identical_sets_have_distance_zero():
    x = torch.randn(100, 5)
    assert frechet_distance(real=x, generated=x.flip(0))["frechet_distance"] == pytest.approx(0, abs=1e-9)


def test_too_few_samples_are_refused_unless_asked_for():
    x = torch.randn(5, 5)
    with pytest.raises(ValueError, match="more than 5 of each are needed"):
        frechet_distance(real=torch.randn(50, 5), generated=x)
    assert frechet_distance(real=torch.randn(50, 5), generated=x, allow_singular=True)["frechet_distance"] > 0
