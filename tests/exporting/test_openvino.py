# SPDX-License-Identifier: Apache-2.0
"""OpenVINO opens the same files."""

import numpy as np
import pytest

import hf_ganzip as gz
from hf_ganzip.exporting.libraries import Session

from ..conftest import tiny_biggan, tiny_generator, tiny_unet


openvino = pytest.importorskip("openvino", reason="openvino is not installed")
pytestmark = pytest.mark.process


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("make", (tiny_generator, tiny_biggan, tiny_unet))
def test_packed_weights(make, bits, tmp_path):
    model = make()
    gz.quantize_(model, bits=bits, headroom=0.0)  # it computes packed bytes wrongly
    options = {"noise": "const"} if make is tiny_generator else {}
    report = gz.export(model, tmp_path / "out", checks=1, **options)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(report.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    random = np.random.default_rng(0)
    feeds = {}
    for name, shape in report.inputs.items():
        size = [2 if each == "batch" else each for each in shape]
        feeds[name] = random.normal(size=size).astype("float32")
    if "timestep" in feeds:
        feeds["timestep"] = np.array([5, 400])
    found = compiled(feeds)[compiled.output(0)]
    expected = Session(report.file)(feeds, [report.outputs[0]])[0]
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())
