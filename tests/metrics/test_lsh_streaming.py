# SPDX-License-Identifier: Apache-2.0
"""What streamed LSH is besides an accumulator (test_accumulate.py): the values of the function, small, bound to its
hyperplanes.
"""

import pytest
import torch

from hf_ganzip.metrics import LSHPrecisionRecall, lsh_precision_recall


def features(n=157, m=120, dim=6):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, dim, generator=generator), 0.8 * torch.randn(m, dim, generator=generator)


@pytest.mark.parametrize("num_hyperplanes", [None, 4, 30])
@pytest.mark.parametrize("k", [None, 2])
def test_batches_in_any_order_give_the_values_of_the_function(k, num_hyperplanes):
    real, generated = features()
    options = {"k": k, "num_hyperplanes": num_hyperplanes, "draws": 3, "seed": 5}
    metric = LSHPrecisionRecall(**options)
    metric.update(generated=generated[100:])
    metric.update(real=real[:7].numpy(), generated=generated[:100])
    metric.update(real=real[50:])
    other = LSHPrecisionRecall(**options).update(real=real[:0]).update(real=real[7:50].tolist())
    assert other.merge(metric).compute() == lsh_precision_recall(real=real, generated=generated, **options)


def test_plain_lsh_remembers_distinct_keys_only():
    generator = torch.Generator().manual_seed(0)
    metric = LSHPrecisionRecall(num_hyperplanes=6, draws=2)
    for _ in range(40):
        batch = torch.randn(5000, 16, generator=generator)
        metric.update(real=batch, generated=batch + 1)
        assert sum(map(len, metric._held["real"]._pending)) <= 2**16, "keys pile up before they are counted"
    tensors = metric.state_dict().values()
    assert sum(x.numel() for x in tensors) <= 2 * (2 * 2 * 2**6 + 4)
    assert metric.compute()["n_real"] == 200_000


@pytest.mark.parametrize("change", [{"seed": 1}, {"draws": 2}, {"num_hyperplanes": 5}, {"center": [1.0] * 6}])
@pytest.mark.parametrize("k", [None, 1])
def test_keys_of_other_hyperplanes_do_not_merge(change, k):
    options = {"k": k, "seed": 0, "draws": 1, "num_hyperplanes": 4, "center": None}
    other, metric = LSHPrecisionRecall(**options | change).update(real=features()[0]), LSHPrecisionRecall(**options)
    with pytest.raises(ValueError, match="merge: real has keys of other hyperplanes; seed, draws"):
        metric.merge(other)
    with pytest.raises(ValueError, match="load_state_dict: real has keys of other hyperplanes"):
        metric.load_state_dict(other.state_dict())
    assert metric.state_dict() == {}


def test_too_few_samples():
    metric = LSHPrecisionRecall()
    with pytest.raises(ValueError, match="real has 0 rows; at least 2 are needed"):
        metric.compute()
    metric.update(real=torch.randn(5, 2), generated=torch.randn(1, 2))
    with pytest.raises(ValueError, match="generated has 1 rows"):
        metric.compute()
