# SPDX-License-Identifier: Apache-2.0
"""The first hour of a newcomer: what they type, line by line, and what they get. Every line here once failed."""

# --- models: quantize_, dequantize_, compile, memory

# --- loading and saving: from_pretrained, configs, casting, LoRA

# --- the command line

# --- evaluating

# --- training and fine-tuning

# --- reports and pictures


class TestReports:
    def test_a_bare_quantize_shows_three_lines_and_print_the_table(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.quantize_(tiny_generator(), gz.QuantizeConfig("linear", bits=4))
        assert len(repr(report).splitlines()) <= 3 and len(repr(report)) < 400
        assert "weights quantized" in repr(report) and "bits per weight" in repr(report)
        assert all(layer.name in str(report) for layer in report.layers)

    def test_a_notebook_shows_a_short_table_with_the_layers_folded(self):
        import hf_ganzip as gz

        from .conftest import tiny_generator

        report = gz.prune_(tiny_generator(), gz.PruneConfig(ratio=0.5))
        head, folded = report._repr_html_().split("<details>")
        assert "parameters" in head and "synthesis" not in head
        assert folded.count("<tr>") == len(report.sets) + 1 and report.sets[0].name in folded
        assert report.to_pandas()["after"].tolist() == [each.after for each in report.sets]


def test_a_grid_of_samples_is_readable_and_its_rows_have_names(tmp_path):
    from PIL import Image
    from typer.testing import CliRunner

    from hf_ganzip.cli import app

    output = tmp_path / "grid.png"
    done = CliRunner().invoke(app, ["sample", "stylegan2-fashion-mnist", str(output), "--num-samples", "20"])
    assert done.exit_code == 0, done.output
    with Image.open(output) as grid:
        assert grid.height >= 10 * 96 and grid.width > 2 * 96 + 50  # ten classes, two of each, beside their names
