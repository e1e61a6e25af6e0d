# SPDX-License-Identifier: Apache-2.0
"""The demo in a smoke size, on the bundled generator."""

import json

import pytest
from PIL import Image

import hf_ganzip as gz
from hf_ganzip.cli import demo as demo_module
from hf_ganzip.cli.demo import DemoConfig, format_table, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = DemoConfig(output_dir=str(folder), num_samples=300, bits=(4, 2), progress=False)
    with pytest.MonkeyPatch.context() as patch:  # exporting takes seconds: tests/test_cli.py has it
        patch.setattr(demo_module, "speed", lambda *_: None)
        return folder, run_demo(config)


def test_table_has_every_setting(demo):
    _, result = demo
    assert [(row["method"], row["bits"]) for row in result["rows"]] == [
        ("full", 32), ("Q", 4), ("Q", 2), ("C+Q", 4), ("C+Q", 2)
    ]  # fmt: skip
    lines = format_table(result["rows"]).splitlines()
    assert len(lines) == 6 and lines[0].split()[:2] == ["method", "bits"]


def test_numbers_have_the_expected_direction(demo):
    _, result = demo
    rows = {(row["method"], row["bits"]): row for row in result["rows"]}
    full, four, two, clipped = rows["full", 32], rows["Q", 4], rows["Q", 2], rows["C+Q", 2]
    assert full["frechet_distance"] < four["frechet_distance"] < two["frechet_distance"]
    assert clipped["frechet_distance"] < two["frechet_distance"], "clipping helps at 2 bits"
    assert full["bytes"] > four["bytes"] > two["bytes"]
    for row in result["rows"]:
        for name in ("lsh", "lsh_knn", "knn"):
            assert 0 <= row[f"{name}_precision"] <= 1 and 0 <= row[f"{name}_recall"] <= 1
        assert row["lsh_knn_precision"] <= row["lsh_precision"]


def test_files_are_written(demo):
    folder, result = demo
    assert json.loads((folder / "results.json").read_text())["rows"] == result["rows"]
    for name in ("samples", "mean_images", "precision_recall"):
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 100
    assert result["saved_model"]["bit_exact"]
    model = gz.StyleGAN2Generator.from_pretrained(folder / "model")
    assert model.config.quantization_config.quantize_config.bits == 4
