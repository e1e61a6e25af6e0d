# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch

from hf_ganzip.metrics import kernel, kernel_distance


def sets(n=150, m=130, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator).double(), torch.randn(m, dim, generator=generator).double() + 0.3


def test_golden_values_of_torch_fidelity(golden):
    sets, expected = golden[0], golden[1]["kid"]
    result = kernel_distance(**sets, subsets=50, subset_size=400)
    # torch-fidelity computed these in float32
    assert result["kernel_distance"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert result["kernel_distance_std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=2e-5)


THEIR_NAMES = {"subsets": "kid_subsets", "subset_size": "kid_subset_size", "seed": "rng_seed"}
THEIR_NAMES |= {name: f"kid_kernel_poly_{name}" for name in ("degree", "gamma", "coef0")}
CHANGED = {"subsets": 7, "subset_size": 100, "degree": 2, "gamma": 0.1, "coef0": 0.5, "seed": 3}


@pytest.mark.parametrize("ours", [{}, CHANGED], ids=["defaults", "every option"])
def test_live_values_of_torch_fidelity(ours):
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    real, generated = sets(1100, 1050, dim=16)
    theirs = {THEIR_NAMES[name]: value for name, value in ours.items()}
    expected = metric_kid.kid_features_to_metric(generated, real, verbose=False, **theirs)  # its first is generated
    result = kernel_distance(real=real, generated=generated, **ours)
    assert result["kernel_distance"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-10)
    assert result["kernel_distance_std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-10)


def test_whole_sets_by_the_definition():
    real, generated = sets(9, 7)

    def k(x, y):
        return float((x @ y / 5 + 1) ** 3)

    expected = sum(k(*pair) for pair in itertools.permutations(real, 2)) / (9 * 8)
    expected += sum(k(*pair) for pair in itertools.permutations(generated, 2)) / (7 * 6)
    expected -= 2 * sum(k(*pair) for pair in itertools.product(real, generated)) / (9 * 7)
    result = kernel_distance(real=real, generated=generated, subset_size=None)
    assert result["kernel_distance"] == pytest.approx(expected, rel=1e-12)
    assert result["kernel_distance_std"] == 0 and result["subsets"] == 1


def test_a_subset_as_large_as_the_sets_is_the_whole_sets():
    real, generated = sets(80, 80)
    whole = kernel_distance(real=real, generated=generated, subset_size=None)
    drawn = kernel_distance(real=real, generated=generated, subset_size=80, subsets=3)
    assert drawn["kernel_distance"] == pytest.approx(whole["kernel_distance"], rel=1e-10)


def test_block_size_does_not_matter(monkeypatch):
    real, generated = sets()
    whole = kernel_distance(real=real, generated=generated, subset_size=None)
    monkeypatch.setattr(kernel, "_BLOCK", 400)
    blocked = kernel_distance(real=real, generated=generated, subset_size=None)
    assert blocked["kernel_distance"] == pytest.approx(whole["kernel_distance"], rel=1e-12)


def test_seeds_repeat_and_differ():
    real, generated = sets()
    options = {"real": real, "generated": generated, "subsets": 3, "subset_size": 50}
    first, again, other = (kernel_distance(**options, seed=seed) for seed in (0, 0, 1))
    assert first == again and first["kernel_distance"] != other["kernel_distance"]


def test_a_subset_larger_than_a_set_is_refused():
    real, generated = sets()
    with pytest.raises(ValueError, match="generated 130 samples, subset_size is 1000.*subset_size to at most 130"):
        kernel_distance(real=real, generated=generated)
    with pytest.raises(ValueError, match="generated 0 samples.*Use more samples"):
        kernel.KernelDistance(subset_size=None).update(real=real).compute()


@pytest.mark.parametrize("name", ["subsets", "subset_size", "degree", "seed"])
def test_bad_counts_are_refused(name):
    real, generated = sets()
    with pytest.raises(TypeError, match=f"{name} is 2.5; allowed are integers"):
        kernel_distance(real=real, generated=generated, **{name: 2.5})
    with pytest.raises(ValueError, match=f"{name} is -1; allowed are integers"):
        kernel_distance(real=real, generated=generated, **{name: -1})


@pytest.mark.parametrize("options", [{"gamma": 0}, {"coef0": -1}, {"gamma": float("nan")}])
def test_bad_values_are_refused(options):
    real, generated = sets()
    with pytest.raises(ValueError, match="allowed are"):
        kernel_distance(real=real, generated=generated, **options)
