# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.metrics import FrechetDistance, frechet, frechet_distance


def test_golden_values_of_torch_fidelity(golden):
    sets, expected = golden
    assert frechet_distance(**sets)["frechet_distance"] == pytest.approx(expected["fid"], rel=1e-6)


def test_closed_form_for_axis_aligned_gaussians():
    x = torch.randn(2000, 3, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)  # exactly white
    scale, shift = torch.tensor([2.0, 1, 0.5], dtype=torch.float64), torch.tensor([1.0, 0, -2], dtype=torch.float64)
    result = frechet_distance(real=x, generated=x * scale + shift)
    assert result["frechet_distance"] == pytest.approx(float((scale - 1).square().sum() + shift.square().sum()))


def gaussians():
    mix = torch.randn(4, 4).double()
    return torch.randn(60, 4).double() @ mix, torch.randn(50, 4).double()


def distance(real, generated):
    return frechet_distance(real=real, generated=generated)["frechet_distance"]


def test_covariances_that_do_not_commute_against_scipy():
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    real, generated = gaussians()
    covs = torch.cov(real.T).numpy(), torch.cov(generated.T).numpy()
    shift = (real.mean(0) - generated.mean(0)).square().sum().item()
    expected = shift + (covs[0] + covs[1] - 2 * linalg.sqrtm(covs[0] @ covs[1]).real).trace()
    assert distance(real, generated) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("cuts", [[], [1, 2, 40], [150]])
def test_streaming_survives_a_large_offset(offset, cuts):
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 8, generator=generator).double() * 0.1 for n in (200, 180))
    exact = distance(real, generated)
    metric = FrechetDistance()
    for first, second in zip((real + offset).tensor_split(cuts), (generated + offset).flip(0).tensor_split(cuts)):
        metric.update(real=first, generated=second)
    # adding the offset rounds the samples themselves by 1e-12; raw sums of squares would be wrong in the fifth digit
    assert metric.compute()["frechet_distance"] == pytest.approx(exact, rel=1e-9)


def test_blocks_do_not_matter(monkeypatch):
    real, generated = gaussians()
    value = distance(real, generated)
    monkeypatch.setattr(frechet, "_BLOCK", 7)
    assert distance(real, generated) == pytest.approx(value, rel=1e-10)


def test_memory_does_not_grow_with_the_samples():
    metric = FrechetDistance()
    for _ in range(20):
        metric.update(real=torch.randn(100, 5))
    shapes = {key: tuple(tensor.shape) for key, tensor in metric.state_dict().items()}
    assert shapes == {"real.count": (), "real.mean": (5,), "real.scatter": (5, 5)}


def test_too_few_samples_and_half_a_state_are_refused():
    sets = {"real": torch.randn(50, 5), "generated": torch.randn(5, 5)}
    with pytest.raises(ValueError, match="real has 50 and generated 5 samples of dimension 5; more than 5 of each"):
        frechet_distance(**sets)
    assert frechet_distance(**sets, allow_singular=True)["frechet_distance"] > 0
    metric = FrechetDistance(allow_singular=True).update(real=sets["real"], generated=sets["generated"][:1])
    with pytest.raises(ValueError, match="more than 1 of each are needed"):
        metric.compute()
    state = metric.state_dict()
    state["real.scatter"] = state["real.scatter"][:4]
    with pytest.raises(ValueError, match="allowed are"):
        metric.load_state_dict(state)
