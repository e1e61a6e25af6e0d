# SPDX-License-Identifier: Apache-2.0
"""The streaming metrics: neither batches, nor merging, nor saving, nor the number of processes changes the result."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hf_ganzip.metrics import (
    FrechetDistance,
    GaussianKernelDistance,
    InceptionScore,
    KernelDistance,
    LSHPrecisionRecall,
    MongeDistance,
    VendiScore,
)

from ..processes import run_processes


METRICS = {
    "frechet": lambda: FrechetDistance(),
    "kernel": lambda: KernelDistance(subsets=4, subset_size=40),
    "inception": lambda: InceptionScore(splits=3),
    "gaussian": lambda: GaussianKernelDistance(),
    "monge": lambda: MongeDistance(num_projections=20),
    "vendi": lambda: VendiScore(),
    "lsh": lambda: LSHPrecisionRecall(draws=2),
    "lsh with neighbours": lambda: LSHPrecisionRecall(k=2, draws=2),
}
TOLERANCE = {"frechet": 1e-12, "vendi": 1e-12}  # relative; those that keep the samples or count them are exact


def samples(name, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 6, generator=generator).to(dtype) for n in (120, 90))
    return {"logits": generated * 3} if name == "inception" else {"real": real, "generated": generated * 2 + 0.5}


def feed(metric, sets, cuts):
    for side, rows in sets.items():
        for batch in torch.tensor_split(rows, sorted(cuts)):
            metric.update(**{side: batch})
    return metric


def assert_same(name, result, expected):
    assert result == (pytest.approx(expected, rel=TOLERANCE[name], abs=0) if name in TOLERANCE else expected)


@pytest.fixture(params=sorted(METRICS))
def name(request):
    return request.param


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 130), max_size=6))
@example(cuts=range(1, 120))  # batches of one row
@pytest.mark.parametrize("name", sorted(METRICS))
def test_batches_do_not_matter(name, cuts):
    sets = samples(name)
    assert_same(name, feed(METRICS[name](), sets, cuts).compute(), METRICS[name]().update(**sets).compute())


def test_merging_appends(name):
    sets, parts = samples(name), [METRICS[name]() for _ in range(3)]
    for part, *batches in zip(parts, *(torch.tensor_split(rows, 3) for rows in sets.values())):
        part.update(**dict(zip(sets, batches)))
    before = parts[1].state_dict()
    merged = METRICS[name]().merge(parts[0]).merge(parts[1]).merge(parts[2])
    assert_same(name, merged.compute(), METRICS[name]().update(**sets).compute())
    after = parts[1].state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before), "merging changed the other"


def test_a_metric_merged_with_itself_has_seen_everything_twice(name):
    sets = samples(name)
    twice = METRICS[name]().update(**{side: torch.cat([rows, rows]) for side, rows in sets.items()}).compute()
    metric = METRICS[name]().update(**sets)
    assert_same(name, metric.merge(metric).compute(), twice)


def test_state_survives_a_file(name, tmp_path):
    metric = METRICS[name]().update(**samples(name))
    save_file(metric.state_dict(), tmp_path / "state.safetensors")
    loaded = METRICS[name]().load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert loaded.compute() == metric.compute()
    assert METRICS[name]().state_dict() == {}
    assert loaded.load_state_dict({}).state_dict() == {}


def test_a_reused_buffer_changes_nothing(name):
    sets = samples(name)
    metric = METRICS[name]().update(**sets)
    before = metric.compute()
    for rows in sets.values():
        rows.zero_()
    assert metric.compute() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_are_those_of_the_widened_samples_and_of_arrays(name, dtype):
    sets = samples(name, dtype)
    wide = {side: rows.double().numpy() for side, rows in sets.items()}
    assert METRICS[name]().update(**sets).compute() == METRICS[name]().update(**wide).compute()


def test_bad_batches_are_refused_and_nothing_is_taken_in(name):
    metric = METRICS[name]().update(**samples(name))
    before, side = metric.compute(), metric.sides[-1]
    broken = torch.ones(4, 6)
    broken[1, 2] = float("inf")
    for wrong, message in (
        (broken, "NaN or infinity in 1 of 4 rows"),
        (torch.ones(4, 5), "dimension 5, what came before has dimension 6"),
        (torch.ones(6), "allowed is"),
    ):
        with pytest.raises(ValueError, match=f"{side} has.*{message}"):
            metric.update(**{side: wrong})
    for wrong in (torch.ones(2, 6, dtype=torch.complex64), {"no": "array"}):
        with pytest.raises(TypeError, match=f"{side} is"):
            metric.update(**{side: wrong})
    for wrong in ({}, {"fake": torch.ones(4, 6)}):
        with pytest.raises(TypeError, match="allowed are the keywords"):
            metric.update(**wrong)
    assert metric.compute() == before


def test_merge_and_load_refuse_what_is_not_theirs(name):
    metric = METRICS[name]().update(**samples(name))
    with pytest.raises(TypeError, match="allowed is another"):
        metric.merge(METRICS["kernel" if name == "frechet" else "frechet"]())
    with pytest.raises(ValueError, match="dimension"):
        metric.merge(METRICS[name]().update(**{metric.sides[0]: torch.ones(4, 5)}))
    state = metric.state_dict()
    if name != "lsh":  # whose tensors are all flat
        with pytest.raises(ValueError, match="allowed"):
            metric.load_state_dict({key: tensor.flatten() for key, tensor in state.items()})
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match="load_state_dict.*allowed are"):
        metric.load_state_dict(state | {"other": torch.ones(1)})


def test_reducing_without_a_group_is_a_copy(name):
    metric = METRICS[name]().update(**samples(name))
    total = metric.reduce()
    assert total.compute() == metric.compute()
    before = metric.compute()
    total.update(**samples(name))
    assert metric.compute() == before


def one_process(rank, world):
    results = {}
    for name, build in METRICS.items():
        metric = build()
        if rank or world < 3:  # of three processes the first has no sample at all
            shares = world if world < 3 else world - 1
            for side, rows in samples(name).items():
                metric.update(**{side: rows.tensor_split(shares)[rank - (world == 3)]})
        results[name] = metric.reduce().compute()
        assert metric.reduce().compute() == results[name]  # reducing twice counts nothing twice
    return results


@pytest.mark.process
@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_processes_gives_the_result_of_one(world, tmp_path):
    for results in run_processes(one_process, world, tmp_path):
        for name, result in results.items():
            assert_same(name, result, METRICS[name]().update(**samples(name)).compute())
