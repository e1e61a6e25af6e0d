# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_ganzip.metrics import density_coverage, knn_precision_recall, lsh_precision_recall, realism_scores
from hf_ganzip.studies.pooled_scores import METHODS, Pool, PooledScores, keys_of


@pytest.mark.parametrize("bits", [3, 8])
def test_values_of_subsets_are_those_of_the_metrics(bits):
    random = torch.Generator().manual_seed(bits)
    pools = [torch.randn(70, 12, generator=random) + 0.5, 0.8 * torch.randn(60, 12, generator=random) + 0.4]
    center = pools[0][:50].mean(dim=0)
    options = {"draws": 3, "seed": 5, "num_hyperplanes": bits}
    real, generated = (Pool(each, keys_of(each, center, **options)) for each in pools)
    rows = torch.randperm(70, generator=random)[:50], torch.randperm(60, generator=random)[:40]
    found = PooledScores(real, generated)(real.balls(rows[0]), generated.balls(rows[1]))
    sets = {"real": pools[0][rows[0]], "generated": pools[1][rows[1]]}
    plain, centred = (lsh_precision_recall(**sets, center=middle, **options) for middle in (None, center))
    orders = tuple(sets.values()), tuple(sets.values())[::-1]
    pruned = [realism_scores(real=a, generated=b, method="knn") >= 1 for a, b in orders]
    expected = {
        "LSH": [plain["lsh_precision"], plain["lsh_recall"]],
        "LSH+KNN": [plain["lsh_knn_precision"], plain["lsh_knn_recall"]],
        "LSH+KNN, centred": [centred["lsh_knn_precision"], centred["lsh_knn_recall"]],
        "KNN": list(knn_precision_recall(**sets).values()),
        "KNN, pruned": [float(side.mean()) for side in pruned],
        "density, coverage": list(density_coverage(**sets).values()),
    }
    assert tuple(found) == METHODS
    for method, values in expected.items():
        assert found[method] == pytest.approx(values), method
        assert all(0.1 < value for value in values) and values[0] != values[1], method
