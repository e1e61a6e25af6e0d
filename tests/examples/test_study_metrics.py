# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "study_metrics.py"


def test_smoke_run_writes_the_section_and_the_pictures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: begin -->\nold\n<!-- study: end -->\nafter\n")
    command = [sys.executable, str(SCRIPT), "--smoke", "--docs", str(page), "--output_dir", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    text = page.read_text()
    assert text.startswith("before\n<!-- study: begin -->") and text.endswith("<!-- study: end -->\nafter\n")
    assert "old" not in text and "| reference |" in text and "Real against real" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["metrics_hyperplanes.png", "metrics_outliers.png"]
