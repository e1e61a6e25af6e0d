# SPDX-License-Identifier: Apache-2.0
"""Every name in the tables of equations exists."""

import pydoc
import re

import pytest

from .pages import ROOT


NAMES = sorted(set(re.findall(r"`(hf_ganzip[\w.]*)`", (ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))))


@pytest.mark.parametrize("name", NAMES)
def test_name(name):
    found = pydoc.locate(name)
    assert found and found.__doc__


def test_all_equations_are_there():
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    lsh, _, rest = page.partition("## Singular")
    for part, last in ((lsh, 12), (rest, 9)):
        found = set()
        for numbers in re.findall(r"^\| equations? ([\d, -]+) \|", part, re.MULTILINE):
            for each in numbers.split(", "):
                first, _, end = each.partition("-")
                found |= set(range(int(first), int(end or first) + 1))
        assert found == set(range(1, last + 1))
