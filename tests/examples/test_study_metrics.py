# SPDX-License-Identifier: Apache-2.0
"""The studies of metrics as users run them."""

import pytest

from hf_ganzip.scripts.studies import publish_section

from .conftest import defined_by, launch


pytestmark = pytest.mark.process


@pytest.fixture
def section(tmp_path):
    """Run a script: the section that it wrote into a page, and its pictures."""

    def run(script):
        page, begin, end = tmp_path / "page.md", "<!-- study: begin -->", "<!-- study: end -->"
        page.write_text(f"before\n{begin}\n(of before)\n{end}\nafter\n")
        launch(script, "--smoke", "--docs", page, "--output_dir", tmp_path)
        text = page.read_text()
        assert text.startswith(f"before\n{begin}") and text.endswith(f"{end}\nafter\n") and "(of before)" not in text
        return text, sorted(path.name for path in tmp_path.glob("*.png"))

    return run


def test_what_the_metrics_do(section):
    text, pictures = section("study_metrics")
    assert "| reference |" in text and "Real against real" in text
    assert pictures == ["metrics_hyperplanes.png", "metrics_outliers.png"]


def test_what_every_metric_sees(section):
    text, pictures = section("study_metrics_compared")
    assert "| | fresh real images | 5 of 10 classes |" in text and pictures == ["metrics_compared.png"]
    copies = [line for line in text.splitlines() if line.startswith(("| KNN precision", "| clipped coverage"))]
    assert len(copies) == 2 and all(line.split(" | ")[4].strip("*") == "1" for line in copies)


def test_too_few_images_are_refused():
    script = defined_by("study_metrics_compared")
    with pytest.raises(ValueError, match="needs 10000 images, fashion-mnist-test-5000 has 5000"):
        script["measure"](script["parse_args"](["--num_samples", "2000"]))


def test_a_page_without_a_place_is_left_alone(tmp_path):
    (tmp_path / "page.md").write_text("mine")
    with pytest.raises(ValueError, match="page.md has no place for the section"):
        publish_section("text", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == "mine"
