# SPDX-License-Identifier: Apache-2.0
import pytest

from . import quick_run


pytestmark = pytest.mark.process


def test_quick_run_writes_ratios_and_limits(tmp_path):
    rows = quick_run("checkpoints", tmp_path)["rows"]
    assert [row["file"] for row in rows] == ["official pickle", "rosinality"]
    assert all(row["ratio"] > 0 and row["limit"] == 2 for row in rows)
