# SPDX-License-Identifier: Apache-2.0
import pytest

from . import quick_run


pytestmark = pytest.mark.process


def test_quick_run_writes_ratios_and_conditions(tmp_path):
    result = quick_run("pruning", tmp_path)
    assert [row["section"] for row in result["rows"]] == ["refine"] * 2 + ["sampling"] * 2 + ["scoring"]
    for row in result["rows"]:
        assert row.get("ratio", 1) > 0 and row.get("error", 0) < 1e-5 and row.get("macs", 2) > 1
    assert result["rows"][-1]["steps per s"] > 0
    assert "1 threads" in result["conditions"]["machine"] and "torch" in result["conditions"]["versions"]
