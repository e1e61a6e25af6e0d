# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ..processes import run_script


pytestmark = pytest.mark.process


SCRIPT = Path(__file__).parents[2] / "examples" / "study_metrics.py"


def test_smoke_run_writes_the_section_and_the_pictures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: begin -->\nold\n<!-- study: end -->\nafter\n")
    run_script(SCRIPT, "--smoke", "--docs", page, "--output_dir", tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- study: begin -->") and text.endswith("<!-- study: end -->\nafter\n")
    assert "old" not in text and "| reference |" in text and "Real against real" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["metrics_hyperplanes.png", "metrics_outliers.png"]
