# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pruning.py"


def test_quick_run_writes_ratios_and_conditions(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--threads", "1", "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    result = json.loads(path.read_text())
    assert [row["section"] for row in result["rows"]] == ["refine"] * 2 + ["sampling"] * 2 + ["scoring"]
    for row in result["rows"]:
        assert row.get("ratio", 1) > 0 and row.get("error", 0) < 1e-5 and row.get("macs", 2) > 1
    assert result["rows"][-1]["steps per s"] > 0
    assert "1 threads" in result["conditions"]["machine"] and "torch" in result["conditions"]["versions"]
