# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

import pytest


# --- models: quantize_, dequantize_, compile, memory


def test_fine_tuning_after_dequantizing_trains():
    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    model.mapping.requires_grad_(False)  # what the user froze
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gz.quantize_(model)
    assert all(parameter.requires_grad == trainable[name] for name, parameter in model.named_parameters())
    gz.dequantize_(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trainable
    run(model)


def test_a_saved_and_dequantized_model_is_trainable_like_any_other(tmp_path):
    import hf_ganzip as gz

    from .conftest import tiny_generator

    model = tiny_generator()
    gz.quantize_(model)
    model.save_pretrained(tmp_path)
    restored = gz.StyleGAN2Generator.from_pretrained(tmp_path)
    gz.dequantize_(restored)
    assert all(parameter.requires_grad for parameter in restored.parameters())


def test_a_compiled_model_can_be_called_twice():
    import torch
    from torch import nn

    import hf_ganzip as gz

    m = nn.Sequential(nn.Conv2d(64, 64, 1)).eval()
    x = torch.randn(1, 64, 2, 2)
    gz.quantize_(m)
    c = torch.compile(m, backend="aot_eager")
    with torch.no_grad():
        expected = m(x)
        for _ in range(3):
            torch.testing.assert_close(c(x), expected)


@pytest.mark.parametrize("compute", ["packed", "dequantized"])
def test_one_truth_about_size(compute, call, tmp_path):
    import json

    import hf_ganzip as gz

    from .conftest import run, tiny_generator

    model = tiny_generator()
    parameters = model.num_parameters()
    report = gz.quantize_(model, gz.QuantizeConfig(compute=compute))
    run(model)
    held = report.bytes_after if compute == "packed" else report.bytes_after + report.unpacked_bytes
    assert (model.num_parameters(), model.get_memory_footprint()) == (parameters, held)
    model.save_pretrained(tmp_path / "small")
    code, out, _ = call("cost", tmp_path / "small", "--no-memory", "--json")
    cost = json.loads(out)["model"]
    assert code == 0 and (cost["parameters"], cost["bytes_in_memory"]) == (parameters, held)

# --- loading and saving: from_pretrained, configs, casting, LoRA

# --- the command line

# --- evaluating

# --- training and fine-tuning

# --- reports and pictures
