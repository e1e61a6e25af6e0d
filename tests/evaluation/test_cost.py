# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

import hf_ganzip as gz
from hf_ganzip.evaluation import cost
from hf_ganzip.evaluation.cost import Cost, CostReport, measure_cost

from ..conftest import changed, state_of, tiny_biggan, tiny_generator, tiny_unet


@pytest.mark.parametrize("build", [tiny_generator, tiny_unet])
def test_a_compressed_model_next_to_its_origin(build):
    reference, model = build(), build()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    report = measure_cost(model, reference, repeats=2, memory=False)
    assert report.model.parameters == report.reference.parameters == sum(p.numel() for p in reference.parameters())
    assert report.model.macs == report.reference.macs > 0
    assert 1.5 < report.reference.bytes_on_disk / report.model.bytes_on_disk < 8
    assert report.model.latency > 0 and report.model.peak_bytes is None
    assert json.loads(json.dumps(report.to_dict()))["conditions"]["compute"] == "packed"
    assert "smaller on disk" in str(report)


def test_macs_by_hand():
    unet = tiny_unet()
    calls = []
    for module in unet.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(lambda m, args, output: calls.append(output[0].numel() * m.weight[0].numel()))
    report = measure_cost(unet, repeats=1, memory=False)
    per_pass = sum(calls[: len(calls) // 3])  # warm-up, one repeat, the count
    attention = report.model.macs - per_pass
    assert 0 <= attention < 0.1 * per_pass


def test_models_in_training_stay_as_they_are():
    model, reference = tiny_biggan().train(), tiny_biggan().train()
    next(model.children()).eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = state_of(model)
    measure_cost(model, reference, repeats=1, memory=False)
    assert {name: module.training for name, module in model.named_modules()} == modes and reference.training
    assert not changed(before, model)


@pytest.mark.process
def test_peak_memory_of_a_fresh_process_in_bfloat16():
    report = measure_cost(tiny_unet().to(torch.bfloat16), repeats=1)
    assert report.conditions["dtype"] == "torch.bfloat16" and 10_000 < report.model.peak_bytes < 500e6


@pytest.mark.parametrize("said, reason", [("", "exit status 3"), ("Traceback\\nMemoryError: no", "MemoryError: no")])
def test_a_failure_of_the_measuring_process_is_told(monkeypatch, tmp_path, said, reason):
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(cost.sys, "executable", str(broken))
    with pytest.raises(RuntimeError, match=f"failed: {reason}. memory=False"):
        measure_cost(tiny_generator(), repeats=1)


def test_the_verdict_is_of_the_model_against_the_reference():
    reference, model = Cost(1, 1, 1000, 1000, None, 1.0), Cost(1, 1, 250, 1000, None, 2.0)
    assert CostReport(model, reference, {}).verdict == "4.00x smaller on disk, 2.00x slower"
    assert CostReport(reference, model, {}).verdict == "not smaller on disk, 2.00x faster"
    assert CostReport(model, model, {}).verdict == "not smaller on disk, not faster"


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="model is a Linear; it belongs to no family"):
        measure_cost(torch.nn.Linear(2, 2))
