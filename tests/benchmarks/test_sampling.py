# SPDX-License-Identifier: Apache-2.0
import pytest

from . import quick_run


pytestmark = pytest.mark.process


def test_quick_run_writes_ratios_and_conditions(tmp_path):
    result = quick_run("sampling", tmp_path)
    assert [row["dtype"] for row in result["rows"]] == ["float32", "bfloat16", "float32", "float32"]
    assert all(row["ratio"] > 0 and row["difference"] < 0.03 for row in result["rows"])
    assert "1 threads" in result["conditions"]["machine"] and "torch" in result["conditions"]["versions"]
