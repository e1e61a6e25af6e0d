# SPDX-License-Identifier: Apache-2.0
import pytest

from . import quick_run


pytestmark = pytest.mark.process


def test_quick_run_writes_every_section(tmp_path):
    rows = quick_run("quantization", tmp_path, "--methods", "linear", "aciq", "latent_distill mixed")["rows"]
    psnr = {(row["method"], row["bits"]): row["PSNR dB"] for row in rows if "FD / full" in row and row["bits"] < 32}
    assert psnr["linear", 2] < psnr["aciq", 2] < psnr["aciq", 4] < psnr["latent_distill mixed", 4]
    size = next(row for row in rows if row["section"] == "size")
    assert 1 < size["ratio"] < 1.1
    assert sum(row["section"] == "time" for row in rows) == 3 and all(row["s"] > 0 for row in rows if "s" in row)
