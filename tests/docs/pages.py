# SPDX-License-Identifier: Apache-2.0
"""Markdown pages as lists of code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title and text, and whether nothing but blank lines is between it and the one
    before.
    """

    language: str
    title: str | None
    code: str
    line: int
    follows: bool


def code_blocks(page: Path) -> list[Block]:
    text, found, end = page.read_text(encoding="utf-8"), [], None
    for match in _BLOCK.finditer(text):
        follows = end is not None and not text[end : match.start()].strip()
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match["language"], match["title"], match["code"], line, follows))
        end = match.end()
    assert text.count("\n```") + text.startswith("```") == 2 * len(found), f"{page}: a fence is not understood"
    return found
