# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantization.py"


def test_quick_run_writes_every_section(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--threads", "1", "--json", str(path)]
    command += ["--methods", "linear", "aciq", "latent_distill mixed"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    rows = json.loads(path.read_text())["rows"]
    psnr = {(row["method"], row["bits"]): row["PSNR dB"] for row in rows if "FD / full" in row and row["bits"] < 32}
    assert psnr["linear", 2] < psnr["aciq", 2] < psnr["aciq", 4] < psnr["latent_distill mixed", 4]
    size = next(row for row in rows if row["section"] == "size")
    assert 1 < size["ratio"] < 1.1
    assert sum(row["section"] == "time" for row in rows) == 3 and all(row["s"] > 0 for row in rows if "s" in row)
