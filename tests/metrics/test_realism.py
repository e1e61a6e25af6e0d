# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from hf_ganzip.metrics import realism, realism_scores
from hf_ganzip.metrics.cells import covered_in_cells
from hf_ganzip.metrics.hyperplanes import hash_keys, hyperplanes

from .conftest import GENERATED, REAL
from .test_lsh import AXES


def test_exact_small_example(monkeypatch):
    monkeypatch.setattr(realism, "draw_hyperplanes", lambda *_: tuple(part[None] for part in AXES))
    scores = realism_scores(real=REAL, generated=GENERATED, k=1)
    assert scores.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 0, 0], abs=1e-4)


def test_at_least_one_means_covered():
    real, generated = torch.randn(300, 4), torch.randn(200, 4)
    keys = tuple(hash_keys(x, *hyperplanes(4, 3, 0)) for x in (real, generated))
    scores = torch.from_numpy(realism_scores(real=real, generated=generated, num_hyperplanes=3, seed=0))
    covered, _ = covered_in_cells(real, generated, *keys, 3)
    clear = (scores - 1).abs() > 1e-3  # 1e-5 is added to distances
    assert clear.sum() > 150 and torch.equal((scores >= 1)[clear], covered[clear])


@pytest.mark.parametrize("method", ["lsh_knn", "knn"])
def test_labels_compare_within_a_class_only(method):
    real, generated = torch.randn(90, 3), torch.randn(60, 3)
    real_labels, generated_labels = torch.arange(90) % 3, torch.arange(60) % 4  # class 3 has no real sample
    scores = realism_scores(
        real=real, generated=generated, method=method, num_hyperplanes=2, real_labels=real_labels.numpy(),
        generated_labels=generated_labels,
    )  # fmt: skip
    for label in range(3):
        rows = generated_labels == label
        of_class = {"real": real[real_labels == label], "generated": generated[rows]}
        alone = realism_scores(**of_class, method=method, num_hyperplanes=2)
        np.testing.assert_allclose(scores[rows], alone)
    assert (scores[generated_labels == 3] == 0).all()


def test_labels_and_methods_that_do_not_fit():
    with pytest.raises(ValueError, match="allowed are lsh_knn, knn"):
        realism_scores(real=REAL, generated=GENERATED, method="faiss")
    with pytest.raises(ValueError, match="one of them is missing"):
        realism_scores(real=REAL, generated=GENERATED, real_labels=[0] * 5)
    with pytest.raises(ValueError, match="real_labels has shape \\(4,\\)"):
        realism_scores(real=REAL, generated=GENERATED, real_labels=[0] * 4, generated_labels=[0] * 4)


@pytest.mark.parametrize("method", ["lsh_knn", "knn"])
def test_samples_near_the_data_are_more_real(method):
    real = torch.randn(400, 3)
    near, far = real[:100] + 0.01 * torch.randn(100, 3), real[:100] * 0.5 + 6
    scores = realism_scores(real=real, generated=torch.cat([near, far]), method=method, num_hyperplanes=4)
    assert scores.shape == (200,) and np.median(scores[:100]) > 1 > np.median(scores[100:])


def test_an_outlier_of_the_reference_makes_nothing_real_by_knn():
    real = torch.cat([torch.randn(200, 3), torch.full((1, 3), 50.0)])
    generated = torch.full((2, 3), 30.0) + torch.randn(2, 3)
    assert (realism_scores(real=real, generated=generated, method="knn") < 0.5).all()
