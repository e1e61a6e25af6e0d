# SPDX-License-Identifier: Apache-2.0
"""The models of diffusers: one of every family."""

import pytest
import torch
from diffusers import AutoModel

import hf_ganzip as gz
from hf_ganzip.quantization.packed import packed_modules

from ..tiny_diffusion import FAMILIES, conditional_unet, output


pytestmark = pytest.mark.processor


@pytest.mark.parametrize("compute", ["dequantized", "packed"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_projection_and_convolution_is_packed_and_restored(name, compute, tmp_path):
    model = FAMILIES[name]()
    report = gz.quantize_(model, gz.QuantizeConfig(bits=3, compute=compute, headroom=0, skip_last_block=True))
    assert all(
        "last block" in layer.skipped or "norm" in layer.skipped or "embedding" in layer.skipped
        for layer in report.skipped
    )
    assert any("last block" in layer.skipped for layer in report.skipped)
    attention = [layer.name for layer in report.quantized if ".to_q." in layer.name or ".to_out.0." in layer.name]
    assert len(attention) >= 2
    expected = output(model)
    model.save_pretrained(tmp_path)
    for cls in (type(model), AutoModel):
        assert torch.equal(output(cls.from_pretrained(str(tmp_path))), expected)


def test_learned_rounding_runs_on_a_conditional_unet():
    model = conditional_unet()
    options = {"steps": 2, "batch_size": 2, "base": "mse_clip", "progress": False}
    gz.quantize_(model, gz.QuantizeConfig("latent_distill", method_options=options, granularity="channel"))
    assert packed_modules(model) and torch.isfinite(output(model)).all()


def test_a_lora_works_on_packed_weights_and_is_merged_beside_the_codes():
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import BaseTunerLayer

    torch.manual_seed(0)
    model = conditional_unet()
    gz.quantize_(model, gz.QuantizeConfig(bits=4))
    plain = output(model)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    beside = output(model)
    assert not torch.equal(beside, plain)
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer) and packed_modules(m)]
    for layer in layers:
        layer.merge()
    assert torch.allclose(output(model), beside, atol=1e-5)
    for layer in layers:
        layer.unmerge()
    assert torch.equal(output(model), beside)
