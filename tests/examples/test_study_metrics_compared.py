# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ..processes import run_script


pytestmark = pytest.mark.process


SCRIPT = Path(__file__).parents[2] / "examples" / "study_metrics_compared.py"


def test_smoke_run_writes_the_section_and_the_pictures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: begin -->\nreplaced\n<!-- study: end -->\nafter\n")
    run_script(SCRIPT, "--smoke", "--docs", page, "--output_dir", tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- study: begin -->") and text.endswith("<!-- study: end -->\nafter\n")
    assert "replaced" not in text and "| | fresh real images | 5 of 10 classes |" in text
    assert [path.name for path in tmp_path.glob("*.png")] == ["metrics_compared.png"]
    copies = [line for line in text.splitlines() if line.startswith(("| KNN precision", "| clipped coverage"))]
    assert len(copies) == 2 and all(line.split(" | ")[4].strip("*") == "1" for line in copies)


def test_too_few_images_are_refused():
    with pytest.raises(AssertionError, match="needs 10000 images, fashion-mnist-test-5000 has 5000"):
        run_script(SCRIPT, "--num_samples", 2000)
