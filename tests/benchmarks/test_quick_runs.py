# SPDX-License-Identifier: Apache-2.0
"""Every benchmark in its smallest size."""

import json
from pathlib import Path
from typing import Any

import pytest

from ..processes import run_script


pytestmark = pytest.mark.process


def quick_run(name: str, folder: Path, *flags: str) -> list[dict[str, Any]]:
    """The rows that ``benchmarks/NAME.py --quick --json`` writes, beside its conditions."""
    script, path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py", folder / "result.json"
    run_script(script, "--quick", "--repeats", "1", "--threads", "1", "--json", path, *flags, cwd=folder)
    result = json.loads(path.read_text())
    assert "1 threads" in result["conditions"]["machine"] and "torch" in result["conditions"]["versions"]
    return result["rows"]


def test_checkpoints(tmp_path):
    rows = quick_run("checkpoints", tmp_path)
    assert [row["file"] for row in rows] == ["official pickle", "rosinality"]
    assert all(row["ratio"] > 0 and row["limit"] == 2 for row in rows)


def test_feature_quantizer(tmp_path):
    rows = quick_run("feature_quantizer", tmp_path)
    assert {row["section"] for row in rows} == {"layer", "memory", "step"} and all(row["ratio"] > 0 for row in rows)


def test_pruning(tmp_path):
    rows = quick_run("pruning", tmp_path)
    assert [row["section"] for row in rows] == ["refine"] * 2 + ["sampling"] * 2 + ["scoring"]
    for row in rows:
        assert row.get("ratio", 1) > 0 and row.get("error", 0) < 1e-5 and row.get("macs", 2) > 1
    assert rows[-1]["steps per s"] > 0


def test_sampling(tmp_path):
    rows = quick_run("sampling", tmp_path)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16", "float32", "float32"]
    assert all(row["ratio"] > 0 and row["difference"] < 0.03 for row in rows)


def test_quantization_writes_every_section(tmp_path):
    rows = quick_run("quantization", tmp_path, "--methods", "linear", "aciq", "latent_distill mixed")
    psnr = {(row["method"], row["bits"]): row["PSNR dB"] for row in rows if "FD / full" in row and row["bits"] < 32}
    assert psnr["linear", 2] < psnr["aciq", 2] < psnr["aciq", 4] < psnr["latent_distill mixed", 4]
    size = next(row for row in rows if row["section"] == "size")
    assert 1 < size["ratio"] < 1.1
    assert sum(row["section"] == "time" for row in rows) == 3 and all(row["s"] > 0 for row in rows if "s" in row)


def test_quick_run_of_a_diffusion_model_counts_every_byte(tmp_path):
    chosen = ["--diffusion-methods", "auto", "linear", "auto mixed", "--diffusion-bits", "4", "2", "--images", "2"]
    rows = quick_run("quantization", tmp_path, "--only", "diffusion", "--no-peers", "--random-model", *chosen)
    found = {(row["model"], row["method"], row["bits"]): row for row in rows}
    whole = found["ddpm-fashion-mnist", "full precision", 32]
    assert whole["bytes"] == 4451204 and whole["bits per weight"] == pytest.approx(32)
    auto, few, mixed, linear = (
        found["ddpm-fashion-mnist", method, bits]
        for method, bits in (("auto", 4), ("auto", 2), ("auto mixed", 2), ("linear", 2))
    )
    assert few["bytes"] < auto["bytes"] < whole["bytes"] / 6 and 0.9 * few["bytes"] < mixed["bytes"] <= few["bytes"]
    assert (
        linear["SQNR dB"] < few["SQNR dB"] < auto["SQNR dB"] and few["PSNR dB, 50 steps"] < auto["PSNR dB, 50 steps"]
    )
    assert {row["method"] for row in rows if row["model"].startswith("random")} == {"full precision", "auto", "linear"}


def test_quick_run_of_loading_compares_fresh_processes(tmp_path):
    rows = quick_run("quantization", tmp_path, "--only", "large")
    sides = {row["method"]: row for row in rows if row["section"] == "large"}
    assert {"plain", "auto", "our folder", "plain folder"} <= sides.keys()
    assert sides["auto"]["MiB"] == sides["our folder"]["MiB"] < sides["plain"]["MiB"] / 3
    ratios = [row["ratio"] for row in rows if row["section"] == "large, ratios"]
    assert len(ratios) >= 7 and all(ratio > 0 for ratio in ratios)
