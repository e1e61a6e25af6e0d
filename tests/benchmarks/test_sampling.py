# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampling.py"


def test_quick_run_writes_ratios_and_conditions(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--threads", "1", "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    result = json.loads(path.read_text())
    assert [row["dtype"] for row in result["rows"]] == ["float32", "bfloat16", "float32", "float32"]
    assert all(row["ratio"] > 0 and row["difference"] < 0.03 for row in result["rows"])
    assert "1 threads" in result["conditions"]["machine"] and "torch" in result["conditions"]["versions"]
