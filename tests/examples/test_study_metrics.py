# SPDX-License-Identifier: Apache-2.0
"""The studies of metrics as users run them."""

import json

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


def test_the_study_of_outliers_goes_on_where_it_stopped_and_refuses_other_conditions(tmp_path):
    out = tmp_path / "out"
    command = ("study_lsh_outliers", "--smoke", "--output_dir", out)
    launch(*command)
    first = (out / "report.json").read_text()
    report = json.loads(first)
    kinds = [("classifier", 0, 1536), ("random, 4096", 0, 4096)]
    assert [(run["kind"], run["seed"], run["dim"]) for run in report["runs"]] == kinds
    for run in report["runs"]:
        assert list(run["clean"]) == list(run["both"]["0.05"]) and len(run["clean"]) == 7
        assert run["clean"]["real images"]["KNN"][1] > run["clean"]["StyleGAN2, half the classes"]["KNN"][1]
        # a digit in the reference is covered by nothing that a generator makes: recall falls, and precision hardly
        # moves
        clean, dirty = (sum(values["real images"]["KNN"]) for values in (run["clean"], run["reference"]["0.05"]))
        assert clean - 0.15 < dirty <= clean + 0.05
    text = (out / "report.md").read_text()
    assert "outliers: digits" in text and "| classifier (d = 1,536) | must stay |" in text
    assert (out / "outliers.png").stat().st_size > 10_000
    (out / "classifier-0.json").unlink()
    result = launch(*command)
    assert "classifier, seed 0: measured" in result.stdout and "random" not in result.stdout
    assert (out / "report.json").read_text() == first
    refused = launch(*command, "--outliers", "fashion-mnist-test-5000", check=False)
    assert refused.returncode and "outliers 'digits', now 'fashion-mnist-test-5000'" in refused.stderr
