# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_too_few_samples_are_refused_unless_asked_for():
    x = torch.randn(5, 5)
    with pytest.raises(ValueError, match="more than 5 of each are needed"):
        frechet_distance(real=torch.randn(50, 5), generated=x)
    assert frechet_distance(real=torch.randn(50, 5), generated=x, allow_singular=True)["frechet_distance"] > 0


def test_live_values_of_torch_fidelity():
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    sets = {"real": torch.randn(300, 12).double(), "generated": torch.randn(250, 12).double() * 1.5 + 0.2}
    statistics = [metric_fid.fid_features_to_statistics(features) for features in sets.values()]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(**sets)["frechet_distance"] == pytest.approx(expected, rel=1e-10)


def gaussians(seed, n=60, m=50, dim=4):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator).double()
    return torch.randn(n, dim, generator=generator).double() @ mix, torch.randn(m, dim, generator=generator).double()


def distance(real, generated):
    return frechet_distance(real=real, generated=generated)["frechet_distance"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_symmetry_translation_rotation_scale_and_order(seed, shift, scale):
    real, generated = gaussians(seed)
    value = distance(real, generated)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double())[0]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
    assert distance(real, real.flip(0)) == pytest.approx(0, abs=1e-9)
    assert distance(generated, real) == pytest.approx(value, rel=1e-9)
    assert distance(real + shift, generated + shift) == pytest.approx(value, rel=1e-9)
    assert distance(real @ rotation, generated @ rotation) == pytest.approx(value, rel=1e-9)
    assert distance(real * scale, generated * scale) == pytest.approx(value * scale**2, rel=1e-9)
    assert distance(real, generated[order]) == pytest.approx(value, rel=1e-9)


def test_covariances_that_do_not_commute_against_scipy():
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    real, generated = gaussians(1)
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


@settings(max_examples=20, deadline=None)
@given(parts=st.permutations(range(5)), seed=st.integers(0, 99))
def test_merge_order_does_not_matter(parts, seed):
    real, generated = gaussians(seed)
    batches = zip(real.tensor_split(5), generated.tensor_split(5))
    pieces = [FrechetDistance().update(real=r, generated=g) for r, g in batches]
    left = FrechetDistance()
    for part in parts:
        left.merge(pieces[part])
    tree = pieces[parts[0]].reduce().merge(pieces[parts[1]])
    tree.merge(pieces[parts[2]].reduce().merge(pieces[parts[3]])).merge(pieces[parts[4]])
    value = distance(real, generated)
    assert left.compute()["frechet_distance"] == pytest.approx(value, rel=1e-10)
    assert tree.compute()["frechet_distance"] == pytest.approx(value, rel=1e-10)


def test_blocks_do_not_matter(monkeypatch):
    real, generated = gaussians(0)
    value = distance(real, generated)
    monkeypatch.setattr(frechet, "_BLOCK", 7)
    assert distance(real, generated) == pytest.approx(value, rel=1e-10)


def test_memory_does_not_grow_with_the_samples():
    metric = FrechetDistance()
    for _ in range(20):
        metric.update(real=torch.randn(100, 5))
    assert {key: tuple(tensor.shape) for key, tensor in metric.state_dict().items()} == {
        "real.count": (),
        "real.mean": (5,),
        "real.scatter": (5, 5),
    }


def test_streaming_refuses_too_few_samples_and_half_a_state():
    metric = FrechetDistance().update(real=torch.randn(50, 5))
    with pytest.raises(ValueError, match="real has 50 and generated 0 samples of dimension 5; more than 5"):
        metric.compute()
    with pytest.raises(ValueError, match="more than 1 of each are needed"):
        FrechetDistance(allow_singular=True).update(real=torch.randn(50, 5), generated=torch.randn(1, 5)).compute()
    state = metric.state_dict()
    state["real.scatter"] = state["real.scatter"][:4]
    with pytest.raises(ValueError, match="allowed are"):
        metric.load_state_dict(state)
