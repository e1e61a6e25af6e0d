# SPDX-License-Identifier: Apache-2.0
"""The models of diffusers: one of every family."""

import pytest
import torch
from diffusers import AutoModel

import hf_ganzip as gz

from ..tiny_diffusion import FAMILIES, output


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
