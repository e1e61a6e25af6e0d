# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "checkpoints.py"


def test_quick_run_writes_ratios_and_limits(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--threads", "1", "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    rows = json.loads(path.read_text())["rows"]
    assert [row["file"] for row in rows] == ["official pickle", "rosinality"]
    assert all(row["ratio"] > 0 and row["limit"] == 2 for row in rows)
