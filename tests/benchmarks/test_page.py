# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md is what the benchmarks measured, at full size, and nothing else."""

import json

from benchmarks import _page


def test_the_page_is_the_rendered_results():
    assert _page.PAGE.read_text(encoding="utf-8") == _page.render()


def test_results_are_of_benchmarks_at_full_size():
    assert (
        {path.stem.partition("-")[0] for path in _page.RESULTS.glob("*.json")}
        == {path.stem for path in _page.scripts(measured=True)}
        != set()
    )
    for path in _page.RESULTS.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["rows"] and not found["conditions"]["quick"], path.name
