# SPDX-License-Identifier: Apache-2.0
"""The accumulator: any split into batches, objects and processes gives the values of the function."""

import io

import pytest
import torch

from hf_ganzip.metrics import LSHPrecisionRecall, lsh_precision_recall

from ..processes import run_processes


def features(n=157, m=120, dim=6):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, dim, generator=generator), 0.8 * torch.randn(m, dim, generator=generator)


@pytest.mark.parametrize("num_hyperplanes", [None, 4, 30])
@pytest.mark.parametrize("k", [None, 2])
def test_batches_in_any_order_give_the_values_of_the_function(k, num_hyperplanes):
    real, generated = features()
    metric = LSHPrecisionRecall(k=k, num_hyperplanes=num_hyperplanes, draws=3, seed=5)
    metric.update(generated=generated[100:])
    metric.update(real=real[:7].numpy(), generated=generated[:100])
    metric.update(real=real[50:])
    metric.update(real=real[:0])
    metric.update(real=real[7:50].tolist())
    expected = lsh_precision_recall(
        real=real, generated=generated, k=k, num_hyperplanes=num_hyperplanes, draws=3, seed=5
    )
    assert metric.compute() == expected
    assert metric.compute() == expected  # and again


@pytest.mark.parametrize("k", [None, 2])
def test_merged_objects_give_the_values_of_one(k):
    real, generated = features()
    parts = [LSHPrecisionRecall(k=k, draws=2) for _ in range(3)]
    parts[0].update(real=real[:50])
    parts[1].update(real=real[50:], generated=generated[:10])
    parts[2].update(generated=generated[10:])
    merged = LSHPrecisionRecall(k=k, draws=2)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.compute() == lsh_precision_recall(real=real, generated=generated, k=k, draws=2)


@pytest.mark.parametrize("k", [None, 2])
def test_a_saved_state_goes_on_where_it_was(k):
    real, generated = features()
    metric = LSHPrecisionRecall(k=k, draws=2)
    metric.update(real=real, generated=generated[:30])
    buffer = io.BytesIO()
    torch.save(metric.state_dict(), buffer)
    buffer.seek(0)
    restored = LSHPrecisionRecall(k=k, draws=2).update(real=real)  # is replaced
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    restored.update(generated=generated[30:])
    assert restored.compute() == lsh_precision_recall(real=real, generated=generated, k=k, draws=2)
    other = LSHPrecisionRecall(k=k, draws=2, seed=9)
    with pytest.raises(ValueError, match="load_state_dict: real has keys of other hyperplanes"):
        other.load_state_dict(metric.state_dict())
    assert other.state_dict() == {}


def test_plain_lsh_remembers_distinct_keys_only():
    generator = torch.Generator().manual_seed(0)
    metric = LSHPrecisionRecall(num_hyperplanes=6, draws=2)
    for _ in range(40):
        batch = torch.randn(5000, 16, generator=generator)
        metric.update(real=batch, generated=batch + 1)
    tensors = metric.state_dict().values()
    assert sum(x.numel() for x in tensors) <= 2 * (2 * 2 * 2**6 + 4)
    assert metric.compute()["n_real"] == 200_000


def test_pending_keys_are_counted_before_they_pile_up():
    metric = LSHPrecisionRecall(num_hyperplanes=3, draws=1)
    for _ in range(30):
        metric.update(real=torch.randn(10_000, 2))
        assert sum(map(len, metric._held["real"]._pending)) <= 2**16


@pytest.mark.parametrize("change", [{"seed": 1}, {"draws": 2}, {"num_hyperplanes": 5}, {"center": [1.0] * 6}])
@pytest.mark.parametrize("k", [None, 1])
def test_keys_of_other_hyperplanes_do_not_merge(change, k):
    options = {"k": k, "seed": 0, "draws": 1, "num_hyperplanes": 4, "center": None}
    other = LSHPrecisionRecall(**options | change)
    other.update(real=features()[0])
    metric = LSHPrecisionRecall(**options)
    with pytest.raises(ValueError, match="merge: real has keys of other hyperplanes; seed, draws"):
        metric.merge(other)
    assert metric.state_dict() == {}


def test_a_reused_buffer_is_not_what_was_given():
    real, generated = features()
    metric = LSHPrecisionRecall(k=2, draws=1).update(generated=generated)
    buffer = real.clone()
    metric.update(real=buffer)
    buffer.zero_()
    assert metric.compute() == lsh_precision_recall(real=real, generated=generated, k=2, draws=1)


def test_a_bad_batch_adds_nothing():
    real, generated = features()
    metric = LSHPrecisionRecall(draws=1)
    metric.update(real=real, generated=generated)
    before = metric.compute()
    nan = generated.clone()
    nan[3, 2] = torch.nan
    with pytest.raises(ValueError, match="generated has NaN or infinity in 1 of 120 rows"):
        metric.update(real=real, generated=nan)
    with pytest.raises(ValueError, match="generated has dimension 5, what came before has dimension 6"):
        metric.update(generated=generated[:, :5])
    with pytest.raises(ValueError, match="real has shape"):
        metric.update(real=real[0])
    assert metric.compute() == before


def test_too_few_samples():
    metric = LSHPrecisionRecall()
    with pytest.raises(ValueError, match="real has 0 rows; at least 2 are needed"):
        metric.compute()
    metric.update(real=torch.randn(5, 2), generated=torch.randn(1, 2))
    with pytest.raises(ValueError, match="generated has 1 rows"):
        metric.compute()


def shard_and_reduce(rank, count, k, uneven):
    real, generated = features()
    metric = LSHPrecisionRecall(k=k, draws=3, seed=1)
    bounds = [0, *(15 * i for i in range(1, count)), 120] if uneven else [120 * i // count for i in range(count + 1)]
    part = slice(bounds[rank], bounds[rank + 1])
    metric.update(real=real[part], generated=generated[part])
    if rank == count - 1:
        metric.update(real=real[120:])
    return metric.reduce().compute()


@pytest.mark.process
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_process_computes_what_one_computes(count, k, tmp_path):
    real, generated = features()
    expected = lsh_precision_recall(real=real, generated=generated, k=k, draws=3, seed=1)
    results = run_processes(shard_and_reduce, count, tmp_path, k, count == 3)
    assert results == [expected] * count


def reduce_with_an_idle_process(rank, count):
    real, generated = features()
    metric = LSHPrecisionRecall(draws=1)
    if rank == 0:
        metric.update(real=real, generated=generated)
    return metric.reduce().compute()


@pytest.mark.process
def test_a_process_without_samples_takes_part(tmp_path):
    real, generated = features()
    expected = lsh_precision_recall(real=real, generated=generated, k=None, draws=1)
    assert run_processes(reduce_with_an_idle_process, 2, tmp_path) == [expected] * 2
